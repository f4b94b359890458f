"""Rules for snapshot: S1 to S5, and G5 and G6 for the names it lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.names import check_meta_name
from keyd.domain.rules.objections import invalid, refused
from keyd.domain.rules.references import ReferenceRule, check_reference, role_of
from keyd.domain.trust import Question, RepositoryView, RoleView
from keyd.errors import Finding

_META: Path = (TOP, "meta")
_TARGETS = "targets.json"
_RULE = ReferenceRule("S4", "TARGETS_METADATA_UNKNOWN", "TARGETS_REFERENCE_MISMATCH")


def check_snapshot(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """All rules that only snapshot payloads know."""
    meta = question.payload.signed["meta"]
    trusted = view.snapshot.signed["meta"] if view.snapshot is not None else {}
    if _TARGETS not in meta:
        yield invalid("S1", "TARGETS_ENTRY_MISSING", _META, "list `targets.json`")
    yield from _check_monotony(meta, highest_listed(trusted, view.role), view)
    for name, entry in meta.items():
        # Unchanged entries may belong to roles that are retired and recorded nowhere.
        if trusted.get(name) != entry:
            yield from _check_entry(name, entry, view)


def _check_monotony(
    meta: Mapping[str, Any], trusted: Mapping[str, Any], view: RepositoryView
) -> Iterator[Finding]:
    """S2 and S3 (TUF 5.5.5): clients refuse snapshots that forget or roll back."""
    for name, before in trusted.items():
        path = (_META, name)
        if name not in meta:
            message = "clients refuse a snapshot that drops an entry: keep it, even if retired"
            yield refused("S2", "SNAPSHOT_ENTRY_REMOVED", path, message)
        elif meta[name]["version"] < before["version"] and role_of(name) not in view.lowered:
            message = f"clients know version {before['version']}, or soon may: list no older one"
            yield refused("S3", "SNAPSHOT_ENTRY_DECREASED", (path, "version"), message)


def highest_listed(trusted: Mapping[str, Any], role: RoleView) -> Mapping[str, Any]:
    """Entries of the trusted snapshot and of one that may be any time; of both, the newer one."""
    if role.pending is None:
        return trusted
    highest = {**trusted}
    for name, entry in role.pending.signed["meta"].items():
        if name not in highest or highest[name]["version"] < entry["version"]:
            highest[name] = entry
    return highest


def _check_entry(name: str, entry: Mapping[str, Any], view: RepositoryView) -> Iterator[Finding]:
    path = (_META, name)
    yield from check_meta_name(name, entry["version"], path)
    known = view.known.get((role_of(name), entry["version"]))
    yield from check_reference(entry, known, path, _RULE)
    if known is not None and not known.digest and not entry.get("hashes"):
        message = "the version is only known by name: list hashes, or import the file"
        yield refused("S5", "UNHASHED_ENTRY_UNTRACKED", path, message)
