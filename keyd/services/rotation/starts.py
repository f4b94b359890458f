"""Whose content a role that is lowered goes on with: the version below, not what came after."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain.payload import Payload, parse
from keyd.domain.records import Reservation, ReservationState, Role
from keyd.ports import View
from keyd.services.evidence import role_or_new, rules_of

# Whoever lowers a role lowers it to one above its last good version, or little more.
_LOOKED_AT = 256
_NO_CONTENT = ("root", "snapshot", "timestamp")


def starts(view: View, repository: str, lower: Mapping[str, int]) -> dict[str, int]:
    """For every role with content of its own that is lowered: the version below, 0 if none is."""
    found = {}
    for role in lower:
        if role not in _NO_CONTENT:
            before = _accepted_below(view, role_or_new(view, repository, role), lower[role])
            found[role] = before.version if before is not None else 0
    return found


def content_below(view: View, role: Role, version: int) -> Payload | None:
    """The newest accepted payload of the role's present epoch below a version, if one is near."""
    if role.name in _NO_CONTENT:
        return None
    found = _accepted_below(view, role, version)
    if found is None:
        return None
    rules = rules_of(role)
    return parse(
        view.payload(found.digest),
        max_bytes=rules.payload_max_bytes,
        extra_members=rules.extra_members,
    )


def _accepted_below(view: View, role: Role, version: int) -> Reservation | None:
    for below in range(version - 1, max(0, version - 1 - _LOOKED_AT), -1):
        found = view.reservation(role.repository, role.name, role.epoch, below)
        if found is not None and found.state is ReservationState.ACCEPTED:
            return found
    return None
