"""What stands against leading clients back to lower versions (TUF 5.3.11)."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.rotation.changes import ChangeSet, RoleChange, RotationKind
from keyd.domain.rotation.found import refused, warned
from keyd.domain.rotation.standing import Standing
from keyd.domain.trust import KeySet
from keyd.errors import Finding

# Whose keys must change for a role to be lowered; for all others the snapshot's.
_MATRIX = {"timestamp": ("timestamp",), "snapshot": ("snapshot", "timestamp")}


def recovery(changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """Nothing that an earlier key signed may still stand above what is lowered."""
    if bool(changes.lower) != (changes.kind is RotationKind.FAST_FORWARD):
        yield refused(
            "FAST_FORWARD_ONLY", "versions are lowered in a fast-forward recovery, and only there"
        )
    for role in changes.lower:
        if role == "root":
            yield refused("ROOT_NOT_LOWERED", "root versions cannot be lowered")
            continue
        for listed in _MATRIX.get(role, ("snapshot",)):
            yield from _vouching(role, listed, changes, standing)
        yield from _content(role, changes, standing)
        yield from _twins(role, changes, standing)
    if changes.lower and not standing.officers:
        yield warned(
            "RECOVERY_BY_ADMINISTRATOR",
            "no officers are enrolled who could agree to lower versions: only the local "
            "administrator may start this and continue it until they are lowered, on the "
            "administrator's Unix socket",
        )


def _vouching(lowered: str, role: str, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """Clients must drop what they have cached of the role."""
    for keys in standing.lists(role):
        if staying := _staying(role, keys, changes, standing):
            yield refused(
                "FAST_FORWARD_INCOMPLETE",
                f"to lower {lowered}, the keys of {role} must change as well: of those that could "
                f"sign the higher versions, {', '.join(staying)} would be listed for {role} "
                "afterwards, so clients may keep what was signed before: fewer of them than its "
                "threshold may stay",
            )


def _staying(role: str, keys: KeySet, changes: ChangeSet, standing: Standing) -> list[str]:
    """The earlier keys whose signatures would still make a file of the role valid, by name.

    None of them: so few stay that nothing from before counts. python-tuf deletes no cached file
    when keys change. `Updater._load_timestamp`, and likewise `_load_snapshot`, hands it to
    `TrustedMetadataSet`, which verifies it by `root.verify_delegate` of the newest root: by the
    keys and the threshold of that one alone (tuf 7.0.1). The file may have been cached under any
    earlier root, by whose threshold nobody asks any more, and all keys that were ever listed may
    have signed it. Keys are told apart by their material: a signature fits every key id of its key.

    One key has to leave even where a higher threshold would do: clients that follow 5.3.11 to the
    letter look for keys that changed, not for thresholds.
    """
    change = _change_of(role, changes, standing)
    listed = frozenset(keys.fingerprints.values())
    new = (listed - set(change.remove)) | {standing.material(key) for key in change.add}
    old = listed | standing.former.get(role, frozenset())
    stay = sorted(standing.named(fingerprint).label for fingerprint in old & new)
    enough = len(stay) >= (change.threshold or keys.threshold)
    return stay if enough or not listed - new else []


def _change_of(role: str, changes: ChangeSet, standing: Standing) -> RoleChange:
    """What changes about a role's keys, of a hash bin under its prefix."""
    names = (role, *(prefix for prefix, bins in standing.bins.items() if role in bins))
    found = (changes.of(name) for name in names)
    return next((change for change in found if change is not None), RoleChange(role))


def _twins(role: str, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """Two files of one version, both valid, where the snapshot does not tell them apart.

    python-tuf's `Updater._load_targets` does not even ask for the new one if it has the old one.
    """
    snapshot = standing.trusted.get("snapshot")
    entry = snapshot.signed.get("meta", {}).get(f"{role}.json", {}) if snapshot else {}
    if role in _MATRIX or entry.get("hashes"):
        return
    for keys in standing.lists(role):
        if staying := _staying(role, keys, changes, standing):
            yield warned(
                "RECOVERY_KEYS_STAY",
                f"{', '.join(staying)} would stay listed for {role}, and the snapshot lists it "
                "without hashes: what they signed before counts on as versions of the same "
                "numbers, and clients that hold such a file keep it; replace these keys as well",
            )


def _content(role: str, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """What was signed last may be what the attacker signed."""
    if standing.starts.get(role) == 0:
        yield warned(
            "RECOVERY_CONTENT_NEWEST",
            f"no {role} below {changes.lower[role]} is recorded: it goes on with the newest "
            "content, which may be the attacker's; lower it to one above a good version",
        )
