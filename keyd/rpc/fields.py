"""Reading the fields of one request: every objection is collected, then raised at once.

Places are RFC 6901 JSON pointers into the request, with field names as in the .proto files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

from keyd.errors import Finding, InvalidRequest

T = TypeVar("T")

# Versions, indexes and sizes are kept in signed 64-bit integers.
_NUMBER_MAX = 2**63 - 1
_NAME_MAX = 64
# A role's name is part of a file name, and file systems end at 255 bytes.
_ROLE_MAX = 255
_REQUEST_ID_MAX = 64


class Fields:
    """Checks values field by field; `check` raises what came together.

    Methods return a harmless value where they object, so that reading can go on.
    """

    def __init__(self) -> None:
        self._findings: list[Finding] = []

    def check(self) -> None:
        """Raises: InvalidRequest with all findings; its reason is the first one's."""
        if not self._findings:
            return
        first, others = self._findings[0], len(self._findings) - 1
        more = f" (and {others} more)" if others else ""
        message = f"{first.pointer} {first.message}{more}"
        raise InvalidRequest(first.reason, message, findings=self._findings)

    def object_to(self, pointer: str, reason: str, message: str) -> None:
        """Add an objection of the caller's own."""
        self._findings.append(Finding("request", reason, pointer, message, malformed=True))

    def present(self, pointer: str, holder: Message, field: str) -> None:
        """A message field that must be set."""
        if not holder.HasField(field):
            self.object_to(pointer, "FIELD_REQUIRED", "must be set")

    def name(self, pointer: str, value: str, *, required: bool = True) -> str:
        """The name of a key, token or repository; services judge its alphabet."""
        return self._text(pointer, value, _NAME_MAX, required=required)

    def role(self, pointer: str, value: str, *, required: bool = True) -> str:
        """The name of a role, delegated ones included."""
        return self._text(pointer, value, _ROLE_MAX, required=required)

    def request_id(self, pointer: str, value: str) -> str:
        """A client's id for its attempt, or ""."""
        if not value.isascii():
            self.object_to(pointer, "FIELD_INVALID", "must be printable ASCII")
        return self._text(pointer, value, _REQUEST_ID_MAX, required=False)

    def digest(self, pointer: str, value: bytes) -> str:
        """A SHA-256 as 64 hex digits, or "" if it was left out."""
        if value and len(value) != hashlib.sha256().digest_size:
            self.object_to(pointer, "FIELD_INVALID", f"must have 32 bytes, has {len(value)}")
        return value.hex()

    def octets(self, pointer: str, value: bytes, longest: int) -> bytes:
        """Bytes that must be there."""
        if not value:
            self.object_to(pointer, "FIELD_REQUIRED", "must not be empty")
        elif len(value) > longest:
            self.object_to(pointer, "FIELD_INVALID", f"has {len(value)} bytes, {longest} allowed")
        return value

    def number(self, pointer: str, value: int, *, least: int = 0) -> int:
        """A version, index, size or count."""
        if not least <= value <= _NUMBER_MAX:
            self.object_to(pointer, "FIELD_INVALID", f"must lie between {least} and 2^63 - 1")
            return least
        return value

    def choice(self, pointer: str, value: int, choices: Mapping[int, T], default: T) -> T:
        """An enum value; unknown numbers, which proto3 lets through, are refused."""
        if value not in choices:
            self.object_to(pointer, "FIELD_INVALID", f"{value} is none of {sorted(choices)}")
        return choices.get(value, default)

    def _text(self, pointer: str, value: str, longest: int, *, required: bool) -> str:
        if required and not value:
            self.object_to(pointer, "FIELD_REQUIRED", "must not be empty")
        elif len(value) > longest or not value.isprintable():
            message = f"must have at most {longest} printable characters"
            self.object_to(pointer, "FIELD_INVALID", message)
            return ""
        return value
