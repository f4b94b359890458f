"""Metadata that is to be signed, shown against the version that is trusted now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from keyd.cli.compared import Compared, same
from keyd.domain.payload import Payload, parse
from keyd.domain.payload_changes import payload_changes
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd.domain.trust import type_of_role


def metadata_compared(
    role: str, version: int, content: bytes, trusted: bytes, *, why: str
) -> Compared:
    """What a version of a role changes about the trusted one; `why` that is missing, if it is.

    Raises: InvalidRequest (DIGEST_MISMATCH, or what metadata that does not parse is refused with).
    """
    payload, before = _parsed(content), _parsed(trusted) if trusted else None
    same(payload.signed["version"], version, "version")
    same(payload.signed["_type"], type_of_role(role), "type of metadata")
    if before is not None:
        same(before.signed["_type"], payload.signed["_type"], "trusted version")
    against = hashlib.sha256(trusted).hexdigest() if trusted else "nothing"
    return Compared(
        title=f"changes against {against}",
        changes=payload_changes(before, payload),
        doubts=_doubts(role, version, before, why),
        digest=bytes.fromhex(payload.digest),
    )


def _doubts(role: str, version: int, before: Payload | None, why: str) -> tuple[str, ...]:
    """Why the difference may not tell what is new for clients."""
    if before is None:
        if version == 1:
            return ()
        subject = f"the trusted version before {role} {version}"
        return (f"{subject} is not here ({why}): what is new in it is NOT KNOWN",)
    known = before.signed["version"]
    if role == "root" and known != version - 1:
        return (f"root {version} is compared with root {known}, which it does not follow",)
    return ()


def _parsed(content: bytes) -> Payload:
    """Extra members are for the daemon's rules to judge; here they are shown like the rest."""
    return parse(content, max_bytes=PAYLOAD_MAX_BYTES, extra_members=_extra_members(content))


def _extra_members(content: bytes) -> tuple[str, ...]:
    try:
        # PEM keys hold raw line feeds, which strict JSON refuses.
        members: Iterable[str] = json.loads(content, strict=False)
    except (ValueError, RecursionError):
        return ()
    return tuple(members)
