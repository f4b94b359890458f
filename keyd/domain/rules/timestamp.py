"""Rules for timestamp: T1 to T3."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP
from keyd.domain.rules.objections import invalid, refused
from keyd.domain.rules.references import ReferenceRule, check_reference
from keyd.domain.trust import Question, RepositoryView, RoleView
from keyd.errors import Finding

_SNAPSHOT = "snapshot.json"
_RULE = ReferenceRule("T3", "SNAPSHOT_UNKNOWN", "SNAPSHOT_REFERENCE_MISMATCH")


def check_timestamp(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """All rules that only timestamp payloads know."""
    meta = question.payload.signed["meta"]
    if meta.keys() != {_SNAPSHOT}:
        message = "`meta` holds exactly `snapshot.json`"
        yield invalid("T1", "TIMESTAMP_META_WRONG", (TOP, "meta"), message)
    entry = meta.get(_SNAPSHOT)
    if entry is None:
        return
    path, version = ((TOP, "meta"), _SNAPSHOT), entry["version"]
    trusted = newest_listing(view.role)
    # TUF 5.4.3.2; lowering it is what a fast-forward recovery is for.
    if trusted is not None and "snapshot" not in view.lowered:
        last = trusted.signed["meta"].get(_SNAPSHOT, entry)["version"]
        if version < last:
            message = f"clients know snapshot {last}, or soon may: refer to no older one"
            yield refused("T2", "SNAPSHOT_VERSION_DECREASED", (path, "version"), message)
    yield from check_reference(entry, view.known.get(("snapshot", version)), path, _RULE)


def newest_listing(role: RoleView) -> Payload | None:
    """Of what is trusted and what may be any time, the timestamp with the newest snapshot."""
    seen = [payload for payload in (role.trusted, role.pending) if payload is not None]
    listed = [payload for payload in seen if _SNAPSHOT in payload.signed["meta"]]
    return max(listed, key=lambda each: each.signed["meta"][_SNAPSHOT]["version"], default=None)
