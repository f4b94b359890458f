"""Where a key is listed, and where a change leaves it."""

from __future__ import annotations

from keyd.domain.delegations import delegated_keys, delegates
from keyd.domain.records import Delegation
from keyd.domain.rotation.changes import ChangeSet
from keyd.domain.rotation.standing import Standing


def left_in(fingerprint: str, changes: ChangeSet, standing: Standing) -> tuple[Delegation, ...]:
    """The roles of all trusted delegators that list the key and go on doing so; bins are one.

    Bins have one key list, which no change of a role touches.
    """
    leaving = {change.role for change in changes.changes if fingerprint in change.remove}
    return tuple(
        entry
        for payload in standing.trusted.values()
        for entry in delegated_keys(payload)
        if entry.fingerprint == fingerprint and (entry.bit_length or entry.role not in leaving)
    )


def is_of_bins(role: str, standing: Standing) -> bool:
    """Whether it is a hash bin of a trusted delegator, or the prefix of such names (TAP 15)."""
    found = (delegates(payload).bins for payload in standing.trusted.values())
    return any(bins and (role == bins.name_prefix or bins.covers(role)) for bins in found)


def words(entry: Delegation) -> str:
    """For a reader: a role's name, or the bins of a prefix."""
    return f"{2**entry.bit_length} bins {entry.role}-*" if entry.bit_length else entry.role
