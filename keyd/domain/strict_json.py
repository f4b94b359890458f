"""JSON without its loose ends: one meaning per text, or a refusal that says where and why.

Encoding, depth, duplicate members and numbers come in front of any look at what the JSON means.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import accumulate, count
from operator import sub
from typing import Any

from keyd.domain.pointer import MAX_FINDINGS, TOP, Path, malformed, refusal
from keyd.errors import Finding

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1
_MAX_INTEGER_CHARS = len(str(-MAX_INTEGER))
_WHITE_SPACE = " \t\r\n"
_ASCII_CONTROL = re.compile("[\x00-\x1f]")

_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, bytes([2, 0, 2, 0]))

# Byte order marks, and an opening brace in UTF-16 or UTF-32 without one.
OTHER_ENCODINGS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"\0\0\0{")


def decode_utf8(raw: bytes) -> str:
    """Decode UTF-8 without byte order mark (RFC 8259 8.1). Raises: PAYLOAD_NOT_UTF8."""
    if not raw.startswith(OTHER_ENCODINGS):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    message = "send UTF-8 without a byte order mark"
    raise refusal([malformed("PAYLOAD_NOT_UTF8", TOP, message)])


def check_depth(raw: bytes) -> None:
    """Refuse more than 32 open brackets, counted outside strings and before any parser runs.

    Raises: NESTING_TOO_DEEP.
    """
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    # Backslashes stand only in strings, and the reader below stops at the first one that does
    # not: pairs go first, then escaped quotes, and every quote left opens or closes a string.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    # An opening bracket adds two and a closing one nothing: less the position, that is the depth.
    depths = map(sub, accumulate(brackets.translate(_STEPS)), count(1))
    if max(depths, default=0) > MAX_DEPTH:
        message = f"nest objects and arrays at most {MAX_DEPTH} deep"
        raise refusal([malformed("NESTING_TOO_DEEP", TOP, message)])


def read_object(text: str) -> dict[str, Any]:
    """Read one JSON object; call `check_depth` before.

    Control characters pass: PEM keys hold raw line feeds, which strict JSON refuses. White space
    passes as well: it fails the comparison with the canonical form.

    Raises: JSON_MALFORMED, TRAILING_BYTES, PAYLOAD_NOT_OBJECT; or, with every place,
        DUPLICATE_MEMBER, NUMBER_NOT_INTEGER, INTEGER_OUT_OF_RANGE (beyond 2^53 - 1).
    """
    try:
        value, end = _READER.raw_decode(text)
        if end == len(text) and type(value) is dict:
            return value
    except ValueError:
        pass
    findings = _findings(text)
    if findings:
        raise refusal(findings)
    stripped: dict[str, Any] = _READER.decode(text)
    return stripped


def check_escapes(text: str) -> None:
    """Refuse raw control characters in strings, which RFC 8259 (section 7) wants escaped.

    Call it after `read_object` for what is read as JSON elsewhere: canonical JSON has them raw.

    Raises: JSON_MALFORMED.
    """
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    if _ASCII_CONTROL.search("".join(unescaped.split('"')[1::2])):
        message = "escape control characters in strings (RFC 8259, section 7)"
        raise refusal([malformed("JSON_MALFORMED", TOP, message)])


def _findings(text: str) -> list[Finding]:
    """Say what the quick reader stumbled over; nothing if it was white space around the object."""
    try:
        value, end = _MARKING_READER.raw_decode(text, len(text) - len(text.lstrip(_WHITE_SPACE)))
    except ValueError:
        return [malformed("JSON_MALFORMED", TOP, "send one complete JSON object (RFC 8259)")]
    rest = text[end:]
    if rest.strip(_WHITE_SPACE):
        # "01" is no number followed by another value: JSON has no leading zeros.
        if type(value) is int and rest[0].isdigit():
            return [malformed("JSON_MALFORMED", TOP, "send one JSON object, not a number")]
        return [malformed("TRAILING_BYTES", TOP, "send nothing after the one JSON object")]
    if not isinstance(value, _Members):
        return [malformed("PAYLOAD_NOT_OBJECT", TOP, "send the `signed` object of the metadata")]
    search = _Search()
    search.visit(value, TOP)
    return search.findings


class _Members(list[tuple[str, Any]]):
    """An object's members as written, repetitions included."""


@dataclass(frozen=True)
class _BadNumber:
    reason: str
    message: str


@dataclass
class _Search:
    """One walk through a marked document, keeping the first flaws."""

    findings: list[Finding] = field(default_factory=list)

    def visit(self, value: Any, path: Path) -> None:
        if isinstance(value, _Members):
            seen = set()
            for name, item in value:
                if name in seen:
                    message = "write each member of an object once"
                    self._add("DUPLICATE_MEMBER", (path, name), message)
                seen.add(name)
                self.visit(item, (path, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.visit(item, (path, index))
        elif isinstance(value, _BadNumber):
            self._add(value.reason, path, value.message)

    def _add(self, reason: str, path: Path, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(malformed(reason, path, message))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError(pairs)
    return members


def _integer(digits: str) -> int:
    # The digits are counted first: converting very long ones takes quadratic time.
    if len(digits) <= _MAX_INTEGER_CHARS:
        value = int(digits)
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value
    raise ValueError(digits)


def _no_integer(text: str) -> Any:
    raise ValueError(text)


def _marked_integer(digits: str) -> int | _BadNumber:
    try:
        return _integer(digits)
    except ValueError:
        return _BadNumber("INTEGER_OUT_OF_RANGE", "write integers from -(2^53-1) to 2^53-1")


def _marked_number(text: str) -> _BadNumber:
    message = f"{text[:20]} is no integer: write neither fraction nor exponent"
    return _BadNumber("NUMBER_NOT_INTEGER", message)


# The first is the quick reader of good text; the second keeps what the first refuses, marked.
_READER = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_no_integer,
    parse_constant=_no_integer,
)
_MARKING_READER = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_Members,
    parse_int=_marked_integer,
    parse_float=_marked_number,
    parse_constant=_marked_number,
)
