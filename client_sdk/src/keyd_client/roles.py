"""TUF roles as `KeydRepository` needs them: their keys, their first metadata, their delegations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
EXPIRY = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}


@dataclass(frozen=True)
class RoleKeys:
    """Names of a role's keys at the daemon, and how many of them must sign."""

    threshold: int
    keys: Sequence[str]


def unborn(role: str) -> Metadata[Any]:
    """Metadata before its first version, which the next bump makes 1."""
    signed: Root | Targets | Snapshot | Timestamp
    if role == Root.type:
        signed = Root(consistent_snapshot=True)
    elif role == Snapshot.type:
        signed = Snapshot(meta={})
    elif role == Timestamp.type:
        signed = Timestamp()
        signed.snapshot_meta.version = 0
    else:
        signed = Targets()
    signed.version = 0
    return Metadata(signed)


def delegates(targets: Targets, role: str) -> bool:
    """Whether a targets role delegates `role` itself."""
    try:
        targets.get_delegated_role(role)
    except ValueError:
        return False
    return True


def delegated_by(targets: Targets) -> Iterable[str]:
    """Names of the roles that a targets role delegates, in their order."""
    if targets.delegations is None:
        return ()
    if targets.delegations.succinct_roles is not None:
        return targets.delegations.succinct_roles.get_roles()
    return targets.delegations.roles or ()
