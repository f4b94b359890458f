"""Key pairs that exist: shown, suspended, retired, condemned."""

from __future__ import annotations

from dataclasses import replace

from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Key, KeyState, check_transition
from keyd.domain.names import check_comment
from keyd.domain.operations import ChangeKeyState
from keyd.domain.policy import Action, Caller
from keyd.errors import (
    ApprovalRequired,
    NotFound,
    PolicyViolation,
)
from keyd.ports import Transaction, View
from keyd.services.authorize import demand
from keyd.services.paging import Page, paged
from keyd.services.quorum import approving, consume
from keyd.services.world import World


def get_key(world: World, caller: Caller, name: str) -> Key:
    """One key by name. Raises: NotFound."""
    demand(world, caller, Action("KeyService.GetKey", key=name))
    return world.ledger.read(lambda view: named(view, name))


def list_keys(world: World, caller: Caller, *, page_size: int, page_token: str) -> Page[Key]:
    """All keys, by name."""
    demand(world, caller, Action("KeyService.ListKeys"))
    keys = world.ledger.read(lambda view: view.keys())
    return paged(keys, lambda key: key.name, page_size, page_token)


def change_state(
    world: World, caller: Caller, method: str, name: str, *, new: KeyState, comment: str
) -> Key:
    """Suspend, resume, retire or condemn a key. Raises: NotFound, PolicyViolation."""
    demand(world, caller, Action(method, key=name))
    check_comment(comment)
    if new is KeyState.DESTROYED:
        raise world.ledger.read(_not_destroyed_alone)

    def work(tx: Transaction) -> Key:
        key = named(tx, name)
        if new is KeyState.ACTIVE and key.state is not KeyState.SUSPENDED:
            raise PolicyViolation(
                "KEY_STATE_TRANSITION",
                f"only a suspended key can be resumed; {name!r} is {key.state.value}",
            )
        check_transition(key.state, new)
        operation = ChangeKeyState(name, key.fingerprint, key.state.value, new.value)
        if proposal := approving(world, tx, operation, Action(method, key=name)):
            consume(world, tx, proposal, caller.principal)
        return put_state(world, tx, key, new, principal=caller.principal, comment=comment)

    return world.ledger.transact(work)


def put_state(
    world: World, tx: Transaction, key: Key, new: KeyState, *, principal: str, comment: str
) -> Key:
    """Record a key's new state and who gave it."""
    changed = replace(key, state=new)
    tx.put_key(changed)
    fields = {"key": key.name, "from": key.state.value, "to": new.value, "comment": comment}
    tx.append(Entry(Event.KEY_STATE_CHANGED, world.clock.now(), principal, fields=fields))
    return changed


def _not_destroyed_alone(view: View) -> ApprovalRequired:
    if view.base_threshold():
        return ApprovalRequired(
            "APPROVAL_REQUIRED",
            "destroying a key needs a quorum of officers: propose it, and execute the proposal",
        )
    return ApprovalRequired(
        "QUORUM_UNAVAILABLE",
        "destroying a key needs a quorum of officers, and no officers are enrolled; "
        "deactivate it instead",
    )


def owner(world: World, key: Key) -> str:
    """The repository that the key's material belongs to, or ""."""
    material = world.ledger.read(lambda view: view.material(key.fingerprint))
    return material.repository if material else ""


def named(view: View, name: str) -> Key:
    """A key by name. Raises: NotFound."""
    key = view.key(name)
    if key is None:
        raise NotFound("KEY_UNKNOWN", f"there is no key {name!r}; keyd key list shows all")
    return key
