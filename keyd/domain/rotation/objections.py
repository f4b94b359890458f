"""What forbids a change, found before anything happens: dead ends and forgotten consequences."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.delegations import key_materials, key_set
from keyd.domain.keys import KeyState
from keyd.domain.rotation.changes import ChangeSet, RoleChange, RotationKind
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL, KeySet
from keyd.errors import Finding, Severity

_DEAD = (KeyState.COMPROMISED, KeyState.DESTROYED)
# Fast-forward recovery: whose keys must change for a role to be lowered (TUF 5.3.11).
_MATRIX = {"timestamp": {"timestamp"}, "snapshot": {"timestamp", "snapshot"}}


# Roles whose keys a role's keys must not be; a delegated role's are no top-level targets keys.
_APART = {
    "root": ("snapshot", "timestamp"),
    "targets": ("snapshot", "timestamp"),
    "snapshot": ("root", "targets"),
    "timestamp": ("root", "targets"),
}


def objections(changes: ChangeSet, standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    """Everything that stands against the change."""
    yield from _standing_in_the_way(standing, roles)
    if not roles:
        yield refused("ROTATION_EMPTY", "nothing changes: name keys, thresholds or an expiry")
    if changes.changes or changes.kind is RotationKind.RENEW_ROOT:
        yield from _reachable(changes, standing)
    for change in changes.changes:
        yield from _role(change, changes, standing)
    yield from _stolen(changes, standing)
    yield from _recovery(changes)


def refused(reason: str, message: str) -> Finding:
    """What forbids a plan."""
    return Finding("rotation", reason, "", message)


def _standing_in_the_way(standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    if standing.open_rotation:
        yield refused(
            "ROTATION_OPEN",
            f"rotation {standing.open_rotation} is not finished: continue or cancel it first",
        )
    for role in roles:
        if role in standing.pending:
            yield refused(
                "ROTATION_VERSION_PENDING",
                f"{role} {standing.pending[role]} is bound and misses signatures: finish it first",
            )


def _reachable(changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """The old threshold of root, where root is signed (TUF 5.3.4, 6.1)."""
    touches_root = changes.kind is RotationKind.RENEW_ROOT or any(
        change.role in TOP_LEVEL for change in changes.changes
    )
    old = key_set(standing.trusted["root"], "root", "") if "root" in standing.trusted else None
    if not touches_root or old is None:
        return
    dead = [k for k in _known(old, standing) if _is_dead(k, changes)]
    alive = frozenset(old.fingerprints.values()) - {k.fingerprint for k in dead}
    if missing := old.missing(alive):
        names = ", ".join(key.label for key in dead)
        yield refused(
            "OLD_THRESHOLD_UNREACHABLE",
            f"root needs {old.threshold} of its present keys and {missing} are lost for ever "
            f"({names}): clients must be given a new trust anchor out of band",
        )


def _known(keys: KeySet, standing: Standing) -> list[KeyFacts]:
    return [standing.named(fp) for fp in dict.fromkeys(keys.fingerprints.values())]


def _is_dead(key: KeyFacts, changes: ChangeSet) -> bool:
    return key.state in _DEAD or key.fingerprint in changes.compromised


def _role(change: RoleChange, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    lists = _present_lists(change.role, standing)
    if not lists:
        yield refused("ROLE_NOT_DELEGATED", f"nothing trusted gives keys to {change.role!r}")
        return
    for keys in lists:
        listed = set(keys.fingerprints.values())
        for fingerprint in change.remove:
            if fingerprint not in listed:
                label = standing.named(fingerprint).label
                yield refused("ROTATION_KEY_NOT_LISTED", f"{change.role} does not list {label}")
        yield from _new_list(change, changes, standing, keys)
    for key in change.add:
        yield from _entering(key.label, key.holder, key.token, change, standing)


def _present_lists(role: str, standing: Standing) -> list[KeySet]:
    names = ("root",) if role in TOP_LEVEL else standing.delegators.get(role, ())
    found = (standing.trusted.get(name) for name in names)
    sets = (key_set(payload, role, "") for payload in found if payload is not None)
    return [keys for keys in sets if keys is not None]


def _new_list(
    change: RoleChange, changes: ChangeSet, standing: Standing, keys: KeySet
) -> Iterator[Finding]:
    kept = {fp for fp in keys.fingerprints.values() if fp not in change.remove}
    entering = {(key.holder, key.label) for key in change.add}
    threshold = keys.threshold if change.threshold is None else change.threshold
    count = len(kept) + len(entering)
    if threshold < 1 or threshold > count:
        yield refused(
            "NEW_THRESHOLD_UNREACHABLE",
            f"{change.role} would need {threshold} signatures and list {count} keys",
        )
        return
    dead = [fp for fp in kept if _is_dead(standing.named(fp), changes)]
    if count - len(dead) < threshold:
        yield refused(
            "NEW_THRESHOLD_UNREACHABLE",
            f"{change.role} would keep {len(dead)} keys that sign no more: remove them as well",
        )
    if threshold == count and change.role == "root":
        yield _graded(
            standing.development,
            "NO_SPARE_KEY",
            "one lost key would lock root for ever: list a spare one",
        )
    if change.role == "root" and threshold < 2:
        yield _graded(
            standing.development, "THRESHOLD_BELOW_FLOOR", "root needs two signatures at least"
        )


def _entering(
    label: str, holder: str, token: str, change: RoleChange, standing: Standing
) -> Iterator[Finding]:
    if holder:
        return
    known = standing.keys.get(label)
    if known is None:
        if token not in standing.tokens:
            yield refused(
                "ROTATION_TOKEN_UNKNOWN",
                f"there is no key {label!r}, and no token {token!r} to make it on",
            )
        return
    if not known.tuf or known.state not in (KeyState.PRE_ACTIVE, KeyState.ACTIVE):
        yield refused(
            "ROTATION_KEY_UNFIT", f"key {label!r} is {known.state.value}: enter a fresh one"
        )
    if known.repository not in ("", standing.repository):
        yield refused(
            "KEY_BELONGS_TO_ANOTHER_REPOSITORY",
            f"key {label!r} belongs to repository {known.repository!r}",
        )
    for keys in _present_lists(change.role, standing):
        listed = set(keys.fingerprints.values()) - set(change.remove)
        if known.fingerprint in listed:
            yield refused("KEY_MATERIAL_REPEATED", f"{change.role} lists key {label!r} already")
    yield from _online(label, known.fingerprint, change, standing)


def _online(
    label: str, fingerprint: str, change: RoleChange, standing: Standing
) -> Iterator[Finding]:
    for role in _APART.get(change.role, ("targets",)):
        for keys in _present_lists(role, standing):
            if fingerprint in keys.fingerprints.values():
                yield refused(
                    "ONLINE_KEY_IN_OFFLINE_ROLE",
                    f"key {label!r} signs {role}: {change.role} needs another one",
                )


def _stolen(changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """Stolen keys are this repository's, and leave every role."""
    listed = {fp for payload in standing.trusted.values() for fp in key_materials(payload)}
    for fingerprint in changes.compromised:
        label = standing.named(fingerprint).label
        if fingerprint not in listed:
            yield refused(
                "ROTATION_KEY_NOT_LISTED", f"no role of {standing.repository} lists {label}"
            )
    if changes.compromised and changes.kind not in (
        RotationKind.EMERGENCY,
        RotationKind.FAST_FORWARD,
        RotationKind.ROOT,
    ):
        yield refused(
            "ROTATION_KIND_WRONG", "a stolen key is replaced by an emergency, not as planned"
        )


def _recovery(changes: ChangeSet) -> Iterator[Finding]:
    """TUF 5.3.11: nothing that an earlier key signed may still stand above what is lowered."""
    if bool(changes.lower) != (changes.kind is RotationKind.FAST_FORWARD):
        yield refused(
            "FAST_FORWARD_ONLY", "versions are lowered in a fast-forward recovery, and only there"
        )
    rotated = {change.role for change in changes.changes if change.remove}
    for role in changes.lower:
        if role == "root":
            yield refused("ROOT_NOT_LOWERED", "root versions cannot be lowered")
            continue
        missing = _MATRIX.get(role, {"snapshot"}) - rotated
        if missing:
            yield refused(
                "FAST_FORWARD_INCOMPLETE",
                f"to lower {role}, the keys of {' and '.join(sorted(missing))} must change as well",
            )


def _graded(warn: bool, reason: str, message: str) -> Finding:
    severity = Severity.WARN if warn else Severity.REFUSE
    return Finding("rotation", reason, "", message, severity)
