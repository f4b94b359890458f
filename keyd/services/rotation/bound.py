"""What the steps of a rotation are bound to, and when they have to be bound anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

from keyd.domain.records import ReservationState
from keyd.domain.records_rotation import Rotation, RotationFile
from keyd.domain.rules.expiry import trusted_expiry
from keyd.ports import View
from keyd.services.evidence import role_or_new
from keyd.services.rotation.files import recorded_payload

# What is left of a file's life must do for its rehearsal and its publication. Of files that live
# for an hour or less it is a tenth: else what was just made would have to be made anew.
_MARGIN = timedelta(minutes=10)
_SHARE = 10


def bound_file(view: View, rotation: Rotation, step: int, now: datetime) -> RotationFile | None:
    """What a step is bound to; None if it is not, or not any more."""
    found = view.rotation_file(rotation.name, step)
    return found if found is not None and is_bound(view, found, now) else None


def is_bound(view: View, found: RotationFile, now: datetime) -> bool:
    """Whether a file is still what its step is bound to.

    Else somebody has signed a newer version since, or officers have voided this one, whether or not
    it has another payload by now; or it has expired, or lists a file whose step was bound anew.
    """
    reservation = view.reservation(found.repository, found.role, found.epoch, found.version)
    if reservation is None or reservation.digest != found.digest:
        return False
    role = role_or_new(view, found.repository, found.role)
    overtaken = (role.epoch, role.trusted_version) > (found.epoch, found.version)
    if overtaken and not role.trusts_older_epoch:
        return False
    return not has_expired(view, found, now) and not _lists_others(view, found)


def accepted_of(view: View, rotation: Rotation, role: str) -> Iterator[tuple[int, int]]:
    """Epochs and versions that a rotation bound and that were accepted, the newest first.

    Also those that are not what their step is bound to any more.
    """
    recorded = role_or_new(view, rotation.repository, role)
    at = recorded.epoch, recorded.trusted_version + 1
    while (found := view.accepted_before(rotation.repository, role, *at)) is not None:
        at = found
        held = view.reservation(rotation.repository, role, *at)
        if held is None or held.leaf < rotation.leaf:
            return
        if is_made_by(view, rotation, role, *at):
            yield at


def is_made_by(view: View, rotation: Rotation, role: str, epoch: int, version: int) -> bool:
    """Whether the rotation bound this version itself."""
    found = view.reservation(rotation.repository, role, epoch, version)
    if found is None or found.leaf < rotation.leaf:
        return False
    leaf = next(iter(view.leaves(found.leaf, found.leaf + 1)))
    return bool(json.loads(leaf.data).get("rotation") == rotation.name)


def has_expired(view: View, found: RotationFile, now: datetime) -> bool:
    """Whether clients refuse a bound file by now, or will before it can be published.

    Of root only once it is accepted: nothing else can take the place of one that is not.
    """
    expires = trusted_expiry(recorded_payload(view, found.digest))
    reservation = view.reservation(found.repository, found.role, found.epoch, found.version)
    if expires is None or reservation is None:
        return False
    if found.role == "root" and reservation.state is not ReservationState.ACCEPTED:
        return False
    return expires - now <= min(_MARGIN, (expires - reservation.created_at) / _SHARE)


def names(role: str, other: str) -> bool:
    """Whether metadata of `role` names the version of every file of `other`."""
    if role == "timestamp":
        return other == "snapshot"
    return role == "snapshot" and other not in ("root", "snapshot", "timestamp")


def _lists_others(view: View, found: RotationFile) -> bool:
    """Whether a snapshot or timestamp names another version of a file than its rotation has."""
    if found.role not in ("snapshot", "timestamp"):
        return False
    meta = recorded_payload(view, found.digest).signed["meta"]
    return any(
        meta.get(f"{file.role}.json", {}).get("version") != file.version
        for file in view.rotation_files(found.rotation)
        if names(found.role, file.role)
    )
