"""After publication: old keys wait out their grace time, then sign no more.

They can be brought back by a quorum until one destroys them (TUF clients may still hold the root
that lists them, and an older root can only be followed by its own keys).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Content, Key, KeyState
from keyd.domain.policy import Caller
from keyd.domain.records_rotation import Rotation, RotationState
from keyd.errors import PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.rotation.plans import leaving
from keyd.services.world import World

PRINCIPAL = "keyd"
_RETIRED_FROM = (KeyState.PRE_ACTIVE, KeyState.ACTIVE, KeyState.SUSPENDED)


def confirm(world: World, caller: Caller, rotation: Rotation) -> None:
    """The files are published; saying so again changes nothing. Raises: PolicyViolation."""

    def work(tx: Transaction) -> None:
        current = tx.rotation(rotation.name) or rotation
        if current.state in (RotationState.RETIRING, RotationState.DONE):
            return
        if current.state is not RotationState.READY:
            raise PolicyViolation(
                "ROTATION_NOT_READY",
                f"{current.name} is {current.state.value}: only rehearsed files are published",
            )
        now = world.clock.now()
        fields = {"rotation": rotation.name, "repository": rotation.repository}
        tx.append(Entry(Event.ROTATION_PUBLISHED, now, caller.principal, fields=fields))
        tx.put_rotation(replace(current, state=RotationState.RETIRING, published_at=now))

    world.ledger.transact(work)
    failpoint(Failpoint.ROTATION_PUBLISHED)


def retire_time(rotation: Rotation) -> datetime | None:
    """When the old keys stop signing; None before publication."""
    if rotation.published_at is None:
        return None
    return rotation.published_at + timedelta(seconds=rotation.grace_s)


def retire_due(world: World) -> int:
    """End every rotation whose grace time is over; returns how many."""
    waiting = world.ledger.read(lambda view: view.retiring_rotations())
    now = world.clock.now()
    due = [r for r in waiting if (at := retire_time(r)) is not None and at <= now]
    for rotation in due:
        retire(world, rotation)
    return len(due)


def retire(world: World, rotation: Rotation) -> None:
    """Deactivate the keys that left, in one transaction with the rotation's end."""

    def work(tx: Transaction) -> None:
        current = tx.rotation(rotation.name)
        if current is None or current.state is not RotationState.RETIRING:
            return
        for key in _leavers(tx, current):
            _deactivate(world, tx, current, key)
        end(world, tx, current, PRINCIPAL, RotationState.DONE)

    world.ledger.transact(work)
    failpoint(Failpoint.ROTATION_RETIRED)


def end(
    world: World, tx: Transaction, rotation: Rotation, principal: str, state: RotationState
) -> None:
    """Put the end of a rotation on record."""
    fields = {
        "rotation": rotation.name,
        "repository": rotation.repository,
        "state": state.value,
    }
    tx.append(Entry(Event.ROTATION_ENDED, world.clock.now(), principal, fields=fields))
    tx.put_rotation(replace(rotation, state=state))


def _leavers(view: View, rotation: Rotation) -> list[Key]:
    """Keys here that the plan takes away and that nothing accepted lists any more."""
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in leaving(rotation))
    return [
        key
        for key in held
        if key is not None
        and key.content is Content.TUF
        and key.state in _RETIRED_FROM
        and not view.delegations_of_key(key.fingerprint)
    ]


def _deactivate(world: World, tx: Transaction, rotation: Rotation, key: Key) -> None:
    tx.put_key(replace(key, state=KeyState.DEACTIVATED))
    fields = {
        "key": key.name,
        "from": key.state.value,
        "to": KeyState.DEACTIVATED.value,
        "comment": f"its grace time after rotation {rotation.name} is over",
    }
    tx.append(Entry(Event.KEY_STATE_CHANGED, world.clock.now(), PRINCIPAL, fields=fields))
