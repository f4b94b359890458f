"""Published metadata files: an envelope of a payload and its signatures (TUF 4.2.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyd.domain import canonical, strict_json
from keyd.domain.file_hashes import hashes_of
from keyd.domain.payload import Payload, parse
from keyd.domain.pointer import TOP, malformed, refusal
from keyd.domain.trust import FileFacts

# What python-tuf's client downloads at most for the largest role (targets).
MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class MetadataFile:
    """A file that parsed strictly. `signatures` are (key id, hex) pairs as written, unverified."""

    payload: Payload
    signatures: tuple[tuple[str, str], ...]
    facts: FileFacts

    @property
    def version(self) -> int:
        version: int = self.payload.signed["version"]
        return version


def read(content: bytes, *, extra_members: tuple[str, ...] = ()) -> MetadataFile:
    """Read a whole metadata file; white space and member order are free in it, nothing else is.

    The payload is the canonical form of its member `signed`. Empty signatures are the placeholders
    of signers who have not signed: absent, not wrong.

    Raises: InvalidRequest as `keyd.domain.payload.parse`, FILE_NOT_METADATA, VERSION_NOT_POSITIVE.
    """
    if len(content) > MAX_BYTES:
        message = f"metadata files have at most {MAX_BYTES} bytes"
        raise refusal([malformed("PAYLOAD_TOO_LARGE", TOP, message, rule="A8")])
    text = strict_json.decode_utf8(content)
    strict_json.check_depth(content)
    document = strict_json.read_object(text)
    strict_json.check_escapes(text)
    signed = document.get("signed")
    if not isinstance(signed, dict):
        message = "send the whole file, with the members `signed` and `signatures`"
        raise refusal([malformed("FILE_NOT_METADATA", TOP, message)])
    payload = parse(canonical.encode(signed), max_bytes=MAX_BYTES, extra_members=extra_members)
    if payload.signed["version"] < 1:
        message = "versions start at 1: no client reads this file"
        raise refusal([malformed("VERSION_NOT_POSITIVE", (TOP, "version"), message, rule="A4")])
    return MetadataFile(payload, _signatures(document), facts_of(content))


def write(payload: Payload, signatures: Sequence[tuple[str, str]]) -> bytes:
    """A whole file with (key id, hex) signatures in this order, as python-tuf writes it.

    Compact JSON with sorted members: the same input gives the same bytes, which other files name
    by hash.
    """
    entries = [{"keyid": keyid, "sig": signature} for keyid, signature in signatures]
    document = {"signatures": entries, "signed": payload.signed}
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def facts_of(content: bytes) -> FileFacts:
    """Length and hashes as snapshot and timestamp metadata state them (TUF 4.4, 4.6)."""
    return FileFacts(length=len(content), hashes=hashes_of(content))


def _signatures(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    entries = document.get("signatures")
    found = []
    for entry in entries if isinstance(entries, list) else [None]:
        keyid, sig = (entry.get("keyid"), entry.get("sig")) if isinstance(entry, dict) else (0, 0)
        if not isinstance(keyid, str) or not isinstance(sig, str):
            message = "`signatures` is a list of objects with the strings `keyid` and `sig`"
            raise refusal([malformed("FILE_NOT_METADATA", TOP, message)])
        if sig:
            found.append((keyid, sig))
    return tuple(found)
