"""Strict reading of TUF payloads: what was checked is byte for byte what gets signed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keyd.domain import canonical, characters, schema, strict_json
from keyd.domain.pointer import TOP, malformed, refusal
from keyd.errors import InvalidRequest

_HEX_DIGEST = re.compile(rb'\s*"?(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})"?\s*')
_DIGEST_SIZES = (32, 48, 64)


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


def parse(
    raw: bytes,
    *,
    role_type: str | None = None,
    max_bytes: int,
    extra_members: tuple[str, ...] = (),
) -> Payload:
    """Read the canonical bytes of a metadata file's `signed` object (rules A1 and A8).

    The payload is judged by its own `_type`; `role_type`, the type the request wants, only makes
    messages more helpful. `max_bytes` caps `raw`. `extra_members` are member names that policy
    allows besides those of the specification, names starting with `x-`,
    `keyid_hash_algorithms` in keys, and anything under `custom`.

    Raises:
        InvalidRequest: `reason` is the first fault in the order size, encoding, depth, JSON,
            characters, members and types, canonical form (docs/reference/errors.md). `findings`
            holds, with JSON pointers, every fault of the last three at once.
    """
    if len(raw) > max_bytes:
        message = f"shorten the payload to {max_bytes} bytes"
        raise refusal([malformed("PAYLOAD_TOO_LARGE", TOP, message, rule="A8")])
    if not raw.startswith(b'{"'):
        _refuse_other_formats(raw)
    text = strict_json.decode_utf8(raw)
    strict_json.check_depth(raw)
    signed = strict_json.read_object(text)
    _refuse_envelopes(signed)
    inspection = schema.inspect(signed, role_type=role_type, extra_members=extra_members)
    findings = inspection.findings
    if not canonical.is_canonical(raw, signed):
        message = "send the canonical bytes, e.g. `Metadata.signed_bytes` of python-tuf (TUF 4.1)"
        findings = [*findings, malformed("NOT_CANONICAL", TOP, message)]
    if findings or not characters.are_surely_plain(raw, text, inspection.line_feeds):
        flaws = characters.character_findings(signed, raw_line_feeds=b"\n" in raw)
        findings = [*flaws, *findings]
    if findings:
        raise refusal(findings)
    return Payload(raw, signed)


def _refuse_other_formats(raw: bytes) -> None:
    """Recognise what callers of other signing services send. Raises: InvalidRequest."""
    if raw.startswith(b"DSSEv1 "):
        raise _dsse_refused()
    if _HEX_DIGEST.fullmatch(raw) or _looks_like_digest(raw):
        message = "send the whole payload: keyd signs no digest that it cannot look into"
        raise refusal([malformed("DIGEST_REFUSED", TOP, message)])


def _looks_like_digest(raw: bytes) -> bool:
    """Whether `raw` has the size of a SHA-2 digest and is no JSON text in any encoding."""
    if len(raw) not in _DIGEST_SIZES or raw.startswith(strict_json.OTHER_ENCODINGS):
        return False
    try:
        json.loads(raw.decode(), strict=False)
    except ValueError:
        return True
    return False


def _refuse_envelopes(signed: Mapping[str, Any]) -> None:
    if "signatures" in signed and "signed" in signed:
        message = "send the `signed` object alone, in canonical JSON"
        raise refusal([malformed("PAYLOAD_IS_ENVELOPE", TOP, message)])
    if "payload" in signed and "payloadType" in signed:
        raise _dsse_refused()


def _dsse_refused() -> InvalidRequest:
    message = "send the canonical `signed` object: TUF metadata in DSSE envelopes is not supported"
    return refusal([malformed("DSSE_UNSUPPORTED", TOP, message)])
