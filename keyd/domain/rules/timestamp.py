"""Rules for timestamp: T1 to T3."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.pointer import TOP
from keyd.domain.rules.objections import invalid, refused
from keyd.domain.rules.references import ReferenceRule, check_reference
from keyd.domain.trust import Question, RepositoryView
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
    trusted = view.role.trusted
    # TUF 5.4.3.2; lowering it is what a fast-forward recovery is for.
    if trusted is not None and "snapshot" not in view.lowered:
        last = trusted.signed["meta"].get(_SNAPSHOT, entry)["version"]
        if version < last:
            message = f"clients have seen snapshot {last}: never refer to an older one"
            yield refused("T2", "SNAPSHOT_VERSION_DECREASED", (path, "version"), message)
    yield from check_reference(entry, view.known.get(("snapshot", version)), path, _RULE)
