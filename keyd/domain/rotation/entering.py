"""What stands against the keys that enter a role, and what their holders should know."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.keys import KeyState
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange
from keyd.domain.rotation.found import graded, refused, warned
from keyd.domain.rotation.standing import ELSEWHERE, KeyFacts, Standing
from keyd.domain.trust import KeySet
from keyd.errors import Finding

# Roles whose keys a role's keys must not be; a delegated role's are no top-level targets keys.
_APART = {
    "root": ("snapshot", "timestamp"),
    "targets": ("snapshot", "timestamp"),
    "snapshot": ("root", "targets"),
    "timestamp": ("root", "targets"),
}


def entering(change: RoleChange, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """Keys that cannot be had, that are listed already, or that sign what they must not."""
    for key in change.add:
        known = standing.keys.get(key.label) if not key.holder else None
        if known is not None:
            yield from _fit(known, standing)
        elif not key.holder and key.token not in standing.tokens:
            yield refused(
                "ROTATION_TOKEN_UNKNOWN",
                f"there is no key {key.label!r}, and no token {key.token!r} to make it on",
            )
        yield from _repeated(key, change, standing)
        yield from _online(key, change, changes, standing)
    yield from _staying(change, standing)


def same_people(change: RoleChange, standing: Standing) -> Iterator[Finding]:
    """Persons with two tokens: asked twice while they change them, or counted twice for good."""
    newcomers: dict[str, list[str]] = {}
    for key in change.add:
        if key.holder and key.holder != ELSEWHERE:
            newcomers.setdefault(key.holder, []).append(standing.material(key))
    for keys in standing.lists(change.role):
        for holder, materials in newcomers.items():
            yield from _person(holder, set(materials), change, standing, keys)


def _fit(known: KeyFacts, standing: Standing) -> Iterator[Finding]:
    if not known.tuf or known.state not in (KeyState.PRE_ACTIVE, KeyState.ACTIVE):
        yield refused(
            "ROTATION_KEY_UNFIT", f"key {known.label!r} is {known.state.value}: enter a fresh one"
        )
    if known.repository not in ("", standing.repository):
        yield refused(
            "KEY_BELONGS_TO_ANOTHER_REPOSITORY",
            f"key {known.label!r} belongs to repository {known.repository!r}",
        )


def _repeated(key: NewKey, change: RoleChange, standing: Standing) -> Iterator[Finding]:
    """One key pair is one vote, whatever it is called (CVE-2020-6174)."""
    material = standing.material(key)
    for keys in standing.lists(change.role):
        if material in set(keys.fingerprints.values()) - set(change.remove):
            yield refused("KEY_MATERIAL_REPEATED", f"{change.role} lists key {key.label!r} already")


def _staying(change: RoleChange, standing: Standing) -> Iterator[Finding]:
    listed = {fp for keys in standing.lists(change.role) for fp in keys.fingerprints.values()}
    again = listed & set(change.remove)
    labels = [key.label for key in change.add if standing.material(key) in again]
    if labels:
        yield warned(
            "KEY_LEAVES_AND_ENTERS",
            f"{', '.join(labels)} would leave {change.role} and enter it again: one key is one "
            "vote, signs once, counts in the old list and in the new under every id that it has "
            "there, and is not retired",
        )


def _online(
    key: NewKey, change: RoleChange, changes: ChangeSet, standing: Standing
) -> Iterator[Finding]:
    """Neither now nor after the change, for that matter."""
    material = standing.material(key)
    for role in _APART.get(change.role, ("targets",)):
        listed = {fp for keys in standing.lists(role) for fp in keys.fingerprints.values()}
        other = changes.of(role)
        names = {(new.holder, new.label) for new in other.add} if other else set()
        listed |= {standing.material(new) for new in other.add} if other else set()
        if (material and material in listed) or (key.holder, key.label) in names:
            yield graded(
                standing.imported,
                "ONLINE_KEY_IN_OFFLINE_ROLE",
                f"key {key.label!r} signs {role}: {change.role} needs another one",
            )


def _person(
    holder: str, enters: set[str], change: RoleChange, standing: Standing, keys: KeySet
) -> Iterator[Finding]:
    listed = set(keys.fingerprints.values())
    held = {fp for fp in listed if standing.named(fp).holder == holder}
    leaves = (held & set(change.remove)) - enters
    after = (held - leaves) | enters
    if len(after) > 1 and enters - listed:
        yield warned(
            "HOLDER_COUNTS_TWICE",
            f"{holder} would hold {len(after)} keys of {change.role}: one person gives as many of "
            f"the {change.threshold or keys.threshold} signatures alone",
        )
    if change.role == "root" and leaves and enters - listed:
        old = ", ".join(sorted(standing.named(fp).label for fp in leaves))
        yield warned(
            "HOLDER_SIGNS_TWICE",
            f"{holder} is asked twice: the leaving token ({old}) signs for the old list, the "
            "entering one for the new",
        )
