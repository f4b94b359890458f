"""Where a key is listed, where a change leaves it, and which hash bins a change is about."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain.delegations import delegated_keys, delegates
from keyd.domain.records import Delegation
from keyd.domain.rotation.changes import ChangeSet
from keyd.domain.rotation.standing import Standing


def left_in(fingerprint: str, changes: ChangeSet, standing: Standing) -> tuple[Delegation, ...]:
    """The roles of all trusted delegators that list the key and go on doing so.

    Bins are one, under the prefix that a change names them by.
    """
    leaving = {change.role for change in changes.changes if fingerprint in change.remove}
    return tuple(
        entry
        for payload in standing.trusted.values()
        for entry in delegated_keys(payload)
        if entry.fingerprint == fingerprint and entry.role not in leaving
    )


def changed_bins(changes: ChangeSet, standing: Standing) -> Mapping[str, str]:
    """The published hash bins whose list changes, each with the prefix that the change names."""
    return {
        role: change.role
        for change in changes.changes
        for role in standing.bins.get(change.role, ())
    }


def is_one_bin(role: str, standing: Standing) -> bool:
    """Whether it is a single hash bin of a trusted delegator, and no role by name (TAP 15)."""
    found = [delegates(payload) for payload in standing.trusted.values()]
    return not any(role in each.names for each in found) and any(
        each.bins is not None and each.bins.covers(role) for each in found
    )


def words(entry: Delegation) -> str:
    """For a reader: a role's name, or the bins of a prefix."""
    return f"{2**entry.bit_length} bins {entry.role}-*" if entry.bit_length else entry.role
