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
            for keys in standing.lists(listed):
                yield from _vouching(role, listed, keys, changes, standing)
        yield from _content(role, changes, standing)
    if changes.lower and not standing.officers:
        yield warned(
            "RECOVERY_BY_ADMINISTRATOR",
            "no officers are enrolled who could agree to lower versions: only the local "
            "administrator may start this and continue it until they are lowered, on the "
            "administrator's Unix socket",
        )


def _vouching(
    lowered: str, role: str, keys: KeySet, changes: ChangeSet, standing: Standing
) -> Iterator[Finding]:
    """The new list must not be reached by signatures of old keys.

    python-tuf deletes no cached file when keys change. `Updater._load_timestamp`, and likewise
    `_load_snapshot`, hands it to `TrustedMetadataSet`, which verifies it by `root.verify_delegate`
    of the newest root: by the keys and the threshold of that one alone (tuf 7.0.1). The file may
    have been cached under any earlier root, by whose threshold nobody asks any more, and all keys
    that were ever listed may have signed it. Keys are told apart by their material: a signature
    fits every key id of its key.

    One key has to leave even where a higher threshold would do: clients that follow 5.3.11 to the
    letter look for keys that changed, not for thresholds.
    """
    change = changes.of(role) or RoleChange(role)
    listed = frozenset(keys.fingerprints.values())
    new = (listed - set(change.remove)) | {standing.material(key) for key in change.add}
    old = listed | standing.former.get(role, frozenset())
    stay = sorted(standing.named(fingerprint).label for fingerprint in old & new)
    threshold = change.threshold or keys.threshold
    if listed - new and len(stay) < threshold:
        return
    yield refused(
        "FAST_FORWARD_INCOMPLETE",
        f"to lower {lowered}, the keys of {role} must change as well: of those that could sign the "
        f"higher versions, {', '.join(stay)} would be listed for {role} afterwards, with threshold "
        f"{threshold}, so clients may keep what was signed before",
    )


def _content(role: str, changes: ChangeSet, standing: Standing) -> Iterator[Finding]:
    """What was signed last may be what the attacker signed."""
    if standing.starts.get(role) == 0:
        yield warned(
            "RECOVERY_CONTENT_NEWEST",
            f"no {role} below {changes.lower[role]} is recorded: it goes on with the newest "
            "content, which may be the attacker's; lower it to one above a good version",
        )
