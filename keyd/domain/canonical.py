"""Canonical JSON (OLPC dialect, TUF 4.1): the one way keyd turns an object into bytes to sign."""

from __future__ import annotations

from typing import Any

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from keyd.errors import InvalidRequest


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
