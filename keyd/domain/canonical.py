"""Canonical JSON (OLPC dialect, TUF 4.1): the one way keyd turns an object into bytes to sign."""

from __future__ import annotations

import json
from typing import Any

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from keyd.errors import InvalidRequest

# Where a string has none of these, both dialects write it the same way.
_ESCAPED = bytes(range(32)) + b"\\"
_encode_plain = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


def is_canonical(raw: bytes, value: Any) -> bool:
    """Whether `raw` are the canonical bytes of `value`, which strict JSON read from them.

    The standard library's encoder, in C, differs from the canonical form only in how it writes
    quotes, backslashes and control characters. Most payloads have none, and for these it tells in
    a quarter of the time; what it does not confirm is written by `encode`.
    """
    plain = len(raw.translate(None, _ESCAPED)) == len(raw)
    if plain and _encode_plain(value).encode() == raw:
        return True
    try:
        return encode(value) == raw
    except InvalidRequest:
        # A lone surrogate, written as an escape: it has no canonical form.
        return False


def encode(value: Any) -> bytes:
    """Return the canonical UTF-8 bytes of `value`, exactly as securesystemslib writes them.

    `value` consists of dicts with string keys, lists, tuples, strings, integers, booleans and None.

    Raises:
        InvalidRequest: NOT_CANONICAL if it holds anything else, or a lone surrogate.
    """
    parts: list[str] = []
    try:
        encode_canonical(value, parts.append)
        return "".join(parts).encode()
    except (FormatError, AttributeError, UnicodeEncodeError) as error:
        # The library's own text repeats the whole object: it must not travel further.
        raise InvalidRequest(
            "NOT_CANONICAL",
            "canonical JSON holds objects, arrays, integers, booleans, null and Unicode text only",
        ) from error
