"""What forbids a change, found before anything happens: dead ends and forgotten consequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from keyd.domain.delegations import key_materials
from keyd.domain.keys import KeyState
from keyd.domain.records import Delegation
from keyd.domain.rotation.changes import ChangeSet, RoleChange, RotationKind
from keyd.domain.rotation.entering import entering, same_people
from keyd.domain.rotation.found import graded, refused, warned
from keyd.domain.rotation.listed import is_one_bin, left_in, words
from keyd.domain.rotation.plan import TOLD, first_words
from keyd.domain.rotation.recovery import recovery
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.domain.rotation.theft import old_root
from keyd.domain.trust import TOP_LEVEL, KeySet
from keyd.errors import Finding

_DEAD = (KeyState.COMPROMISED, KeyState.DESTROYED)


def objections(changes: ChangeSet, standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    """Everything that stands against the change."""
    yield from _standing_in_the_way(standing, roles)
    if not roles:
        yield refused("ROTATION_EMPTY", "nothing changes: name keys, thresholds or an expiry")
    yield from _repeated(changes)
    if changes.changes or changes.kind is RotationKind.RENEW_ROOT:
        yield from old_root(changes, standing)
    for change in changes.changes:
        yield from _role(change, changes, standing)
    yield from _stolen(changes, standing)
    yield from recovery(changes, standing)


def _standing_in_the_way(standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    if standing.open_rotation:
        yield refused(
            "ROTATION_OPEN",
            f"rotation {standing.open_rotation} is not finished: continue or cancel it first",
        )
    yield from _pending(standing, roles)
    unseen = [role for role in roles if role in standing.unseen and role not in TOP_LEVEL]
    if unseen:
        yield refused(
            "ROTATION_METADATA_UNKNOWN",
            f"the snapshot lists {first_words(unseen)}, and nothing of it is recorded here, so it "
            "would keep the signatures of keys that leave: import what is published first",
        )


def _repeated(changes: ChangeSet) -> Iterator[Finding]:
    """Of two changes of one role only one would be made, and each judged alone."""
    counted = Counter(change.role for change in changes.changes)
    repeated = sorted(role for role, times in counted.items() if times > 1)
    if repeated:
        yield refused(
            "ROTATION_ROLE_REPEATED",
            f"{first_words(repeated)} is changed more than once: name all keys that leave and "
            "enter a role in one change",
        )


def _pending(standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    """Only of root no version can be left behind: a dead key must not keep its role for ever."""
    if "root" in roles and "root" in standing.pending:
        yield refused(
            "ROTATION_VERSION_PENDING",
            f"root {standing.pending['root']} is bound and misses signatures: finish it first",
        )


def left_behind(standing: Standing, roles: tuple[str, ...]) -> Iterator[Finding]:
    """Versions of other roles that wait at this moment, be it for a token that is just signing."""
    others = [role for role in roles if role in standing.pending and role != "root"]
    for role in others[:TOLD]:
        yield warned(
            "ROTATION_VERSION_PENDING",
            f"{role} {standing.pending[role]} is bound and misses signatures: it is left behind, "
            + _what_of_it(role),
        )
    if len(others) > TOLD:
        more = f"{len(others) - TOLD} more roles are bound, miss signatures and are left behind"
        yield warned("ROTATION_VERSION_PENDING", more)


def _what_of_it(role: str) -> str:
    if role in ("snapshot", "timestamp"):
        return "but what it lists stays listed, as long as its keys could still complete it"
    return "and what it changes is not in the version that is made; to keep that, finish it first"


def _is_dead(key: KeyFacts, changes: ChangeSet) -> bool:
    return key.state in _DEAD or key.fingerprint in changes.compromised


def _role(change: RoleChange, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    lists = standing.lists(change.role)
    if is_one_bin(change.role, standing):
        yield refused(
            "ROTATION_OF_BINS",
            f"the hash bin {change.role!r} shares one key list with all others: name their prefix "
            f"{change.role.rpartition('-')[0]!r}, and all of them change",
        )
        return
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
    yield from entering(change, changes, standing)
    yield from same_people(change, standing)


def _new_list(
    change: RoleChange, changes: ChangeSet, standing: Standing, keys: KeySet
) -> Iterator[Finding]:
    kept = {fp for fp in keys.fingerprints.values() if fp not in change.remove}
    come = {(key.holder, key.label) for key in change.add}
    threshold = keys.threshold if change.threshold is None else change.threshold
    count = len(kept) + len(come)
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
        yield graded(
            standing.lenient,
            "NO_SPARE_KEY",
            "one lost key would lock root for ever: list a spare one",
        )
    if change.role == "root" and threshold < 2:
        yield graded(
            standing.lenient, "THRESHOLD_BELOW_FLOOR", "root needs two signatures at least"
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
        if left := left_in(fingerprint, changes, standing):
            yield refused(
                "STOLEN_KEY_STAYS_LISTED",
                f"clients would go on trusting {label} for {_some(left)}: remove it there as well; "
                f"until then `keyd key compromise {label}` stops it from signing here",
            )
    if changes.compromised and changes.kind not in (
        RotationKind.EMERGENCY,
        RotationKind.FAST_FORWARD,
        RotationKind.ROOT,
    ):
        yield refused(
            "ROTATION_KIND_WRONG", "a stolen key is replaced by an emergency, not as planned"
        )


def _some(left: tuple[Delegation, ...]) -> str:
    """The first of them in words, and how many more there are."""
    return first_words([words(entry) for entry in left])
