"""Strict reading of TUF payloads: what was checked is byte for byte what gets signed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Payload:
    """A payload that parsed strictly and is canonical: the bytes and their only meaning.

    `raw` are the bytes as received (canonical JSON, UTF-8); `signed` the decoded object. Made only
    by `parse`.
    """

    raw: bytes
    signed: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `raw`, 64 lower-case hex digits."""
        return hashlib.sha256(self.raw).hexdigest()
