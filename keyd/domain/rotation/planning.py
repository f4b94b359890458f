"""From a change to its plan: root first, then delegators, what they list, snapshot, timestamp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, groupby

from keyd.domain.rotation.changes import ChangeSet, RoleChange, RotationKind
from keyd.domain.rotation.listed import changed_bins, left_in
from keyd.domain.rotation.objections import left_behind, objections
from keyd.domain.rotation.plan import Plan, SignatureNeed, Step, StepKind, range_words
from keyd.domain.rotation.standing import ELSEWHERE, KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL, KeySet


def plan(changes: ChangeSet, standing: Standing) -> Plan:
    """Work out what a change takes; objections are in the plan, nothing is raised."""
    roles = tuple(resigned(changes, standing))
    bins = changed_bins(changes, standing)
    signed = list(_signed(changes, standing, roles, bins))
    gone = leaving(changes, standing)
    retired = [standing.named(fingerprint) for fingerprint in gone]
    steps = _numbered(
        [
            *_generated(changes, standing),
            *signed,
            *_after([step.name for step in signed]),
            *(_retirement(key.label) for key in retired if _is_retired(key, changes)),
        ]
    )
    return Plan(
        change=changes,
        steps=steps,
        needs=tuple(_needs(changes, standing, steps, bins)),
        leaves=tuple(gone),
        enters=tuple(sorted({key.label for change in changes.changes for key in change.add})),
        findings=tuple(objections(changes, standing, roles)),
        passing=tuple(left_behind(standing, roles)),
    )


def resigned(changes: ChangeSet, standing: Standing) -> Iterator[str]:
    """The roles that are signed anew, in their order; all published bins of a changed prefix."""
    changed = {change.role for change in changes.changes} | set(changes.lower)
    if changes.kind is RotationKind.RENEW_ROOT or any(
        change.role in TOP_LEVEL for change in changes.changes
    ):
        yield "root"
    bins = changed_bins(changes, standing)
    wanted = {*changed, *_delegators(changes, standing), *bins} - {"root", "snapshot", "timestamp"}
    present = [role for role in _top_down(wanted, standing, bins) if standing.has(role)]
    yield from present
    snapshot = bool(present) or "snapshot" in changed
    if snapshot and standing.has("snapshot"):
        yield "snapshot"
    if (snapshot or "timestamp" in changed) and standing.has("timestamp"):
        yield "timestamp"


def _delegators(changes: ChangeSet, standing: Standing) -> set[str]:
    """The roles other than root that list keys which change."""
    return {
        name
        for change in changes.changes
        if change.role not in TOP_LEVEL
        for name in standing.delegators.get(change.role, ())
    }


def leaving(changes: ChangeSet, standing: Standing) -> list[str]:
    """Fingerprints that no list has any more afterwards."""
    gone = {fingerprint for change in changes.changes for fingerprint in change.remove}
    gone -= {standing.material(key) for change in changes.changes for key in change.add}
    return sorted(fp for fp in gone if not left_in(fp, changes, standing))


def _top_down(roles: set[str], standing: Standing, bins: Mapping[str, str]) -> list[str]:
    """Delegators before what they delegate, the bins of a prefix side by side."""

    def depth(role: str) -> int:
        steps, seen = 0, {role}
        while role != "targets":
            above = [d for d in standing.delegators.get(role, ()) if d not in seen]
            if not above:
                break
            role, steps = above[0], steps + 1
            seen.add(role)
        return steps

    return sorted(roles, key=lambda role: (depth(role), bins.get(role, role), role))


def _generated(changes: ChangeSet, standing: Standing) -> Iterator[Step]:
    seen: set[str] = set()
    for change in changes.changes:
        for key in change.add:
            if key.holder or key.label in standing.keys or key.label in seen:
                continue
            seen.add(key.label)
            text = f"generate key {key.label} ({key.scheme}) on token {key.token}"
            yield Step(0, StepKind.GENERATE, text, key.label, token=key.token, scheme=key.scheme)


def _signed(
    changes: ChangeSet, standing: Standing, roles: tuple[str, ...], bins: Mapping[str, str]
) -> Iterator[Step]:
    # Bins of which there is more to say than that their keys changed.
    alone = {*changes.lower, *_delegators(changes, standing)}

    def place(role: str) -> tuple[str, tuple[str, ...]]:
        """What the bins of one step have in common, and no other role has."""
        if role not in bins or role in alone:
            return role, ()
        return bins[role], standing.delegators.get(role, ())

    for (name, _), found in groupby(roles, place):
        group = tuple((role, _version(changes, standing, role)) for role in found)
        role, version = group[0]
        if len(group) > 1:
            text = f"sign {range_words([role for role, _ in group])}: their keys changed"
            yield Step(0, StepKind.SIGN, text, name, bins=group)
            continue
        because = "; ".join(_reasons(changes, standing, role, roles, _own(changes, bins, role)))
        words = f"{role} {version}" if version else f"{role} anew"
        yield Step(0, StepKind.SIGN, f"sign {words}: {because}", role, version)


def _version(changes: ChangeSet, standing: Standing, role: str) -> int:
    """Of root, and of roles that are lowered; else 0.

    Others are signed every day: a plan that named their versions would be another one before
    officers have agreed to it.
    """
    following = standing.next_root if role == "root" else 0
    return changes.lower.get(role, following)


def _reasons(
    changes: ChangeSet,
    standing: Standing,
    role: str,
    roles: tuple[str, ...],
    own: RoleChange | None,
) -> Iterator[str]:
    for change in changes.changes:
        lists = (
            role == "root"
            if change.role in TOP_LEVEL
            else (role in standing.delegators.get(change.role, ()))
        )
        if lists:
            yield _change_words(change, standing)
    if role == "root" and changes.kind is RotationKind.RENEW_ROOT:
        yield "a later expiry"
    if own is not None and role != "root":
        yield "its keys changed"
    if role in changes.lower:
        start = standing.starts.get(role)
        content = f", with the content of {role} {start}" if start else ""
        yield f"it goes on from {changes.lower[role]} in a new epoch{content}"
    if role == "snapshot" and any(r not in TOP_LEVEL or r == "targets" for r in roles):
        yield "it lists the new targets metadata"
    if role == "timestamp" and "snapshot" in roles:
        yield "it points to the new snapshot"


def _own(changes: ChangeSet, bins: Mapping[str, str], role: str) -> RoleChange | None:
    """What changes about a role's keys, of a bin under its prefix."""
    return changes.of(role) or (changes.of(bins[role]) if role in bins else None)


def _change_words(change: RoleChange, standing: Standing) -> str:
    enter = {standing.material(key) for key in change.add}
    stay = enter & set(change.remove)
    words = [f"{'=' if standing.material(k) in stay else '+'}{k.label}" for k in change.add]
    words += [f"-{standing.named(fp).label}" for fp in change.remove if fp not in stay]
    if change.threshold is not None:
        words.append(f"threshold {change.threshold}")
    return f"{change.role} {' '.join(words)}"


def _after(names: list[str]) -> list[Step]:
    files = ", ".join(names)
    return [
        Step(0, StepKind.REHEARSE, f"rehearse {files} with stock clients of every earlier state"),
        Step(0, StepKind.PUBLISH, f"publish {files} at once"),
    ]


def _is_retired(key: KeyFacts, changes: ChangeSet) -> bool:
    """A stolen key has stopped signing already; what others hold is not ours to stop."""
    return not key.holder and key.fingerprint not in changes.compromised


def _retirement(label: str) -> Step:
    return Step(0, StepKind.RETIRE, f"deactivate key {label} after its grace time", label)


def _numbered(steps: list[Step]) -> tuple[Step, ...]:
    """In order, with a number for every bin that is signed."""
    numbers = accumulate((max(1, len(step.bins)) for step in steps), initial=0)
    return tuple(replace(step, number=number) for step, number in zip(steps, numbers, strict=False))


def _needs(
    changes: ChangeSet, standing: Standing, steps: tuple[Step, ...], bins: Mapping[str, str]
) -> Iterator[SignatureNeed]:
    for step in steps:
        # Bins of one step have one list.
        role = next((each.role for each in step.signed), "")
        if role == "root":
            yield from _old_root_needs(standing, step)
        if role:
            change = _own(changes, bins, role)
            which = "new" if role == "root" else ""
            for keys in standing.lists(role):
                yield _need_after(change, standing, step, keys, which)


def _old_root_needs(standing: Standing, step: Step) -> Iterator[SignatureNeed]:
    for old in standing.lists("root"):
        keys = [standing.named(fp) for fp in dict.fromkeys(old.fingerprints.values())]
        yield _need(step, "old", old.threshold, [(k.label, k.holder) for k in keys])


def _need_after(
    change: RoleChange | None, standing: Standing, step: Step, found: KeySet, which: str
) -> SignatureNeed:
    removed = set(change.remove) if change else set()
    kept = [fp for fp in dict.fromkeys(found.fingerprints.values()) if fp not in removed]
    keys = [(standing.named(fp).label, standing.named(fp).holder) for fp in kept]
    keys += [(key.label, key.holder) for key in (change.add if change else ())]
    threshold = change.threshold if change and change.threshold else found.threshold
    return _need(step, which, threshold, keys)


def _need(step: Step, which: str, threshold: int, keys: list[tuple[str, str]]) -> SignatureNeed:
    named = (f"{label} ({holder})" if holder else label for label, holder in keys)
    labels = tuple(dict.fromkeys(named))
    people = tuple(sorted({holder for _, holder in keys} - {"", ELSEWHERE}))
    return SignatureNeed(step.number, which, threshold, labels, people)
