"""Beginning a rotation, and giving it up."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace

from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Key, KeyState, check_transition
from keyd.domain.names import check_comment
from keyd.domain.operations import ChangeKeyState, StartRotation
from keyd.domain.policy import Action, Caller
from keyd.domain.records_rotation import Rotation, RotationFile, RotationState
from keyd.domain.rotation.plan import Plan
from keyd.errors import ApprovalRequired, InvalidRequest, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.authorize import demand, denial
from keyd.services.quorum import approving, consume
from keyd.services.rotation.bound import accepted_of
from keyd.services.rotation.permitted import demand_all
from keyd.services.rotation.planning import planned_now
from keyd.services.rotation.progress import Progress, progress_of, recorded_rotation
from keyd.services.rotation.proposing import ask
from keyd.services.rotation.retiring import end
from keyd.services.rotation.wanted import Wanted
from keyd.services.world import World

DEFAULT_GRACE_S = 86_400
GRACE_MAX_S = 366 * 86_400


def start(
    world: World, caller: Caller, wanted: Wanted, plan_digest: str, *, grace_s: int
) -> Progress:
    """Begin a change whose plan, with this digest, was read; stolen keys stop signing at once.

    They do so even if the rotation itself needs officers, who have to be found first. `grace_s`:
    how long old keys stay usable after publication, 0 for the default.

    Raises: InvalidRequest (GRACE_TOO_LONG); NotAllowed (POLICY_DENIES) also where the caller may
    not make a key of the plan, or have a role of it signed; NotAllowed (LOCAL_ADMINISTRATOR_ONLY)
    where it lowers versions and there are no officers; PolicyViolation (PLAN_CHANGED, or what
    forbids the plan), AlreadyExists (ROTATION_OPEN), ApprovalRequired (APPROVAL_REQUIRED).
    """
    demand(world, caller, Action("RotationService.StartRotation", wanted.repository))
    check_comment(wanted.reason)
    if grace_s > GRACE_MAX_S:
        raise InvalidRequest(
            "GRACE_TOO_LONG",
            f"old keys stay usable for at most {GRACE_MAX_S} seconds, a year: a quorum can bring "
            "them back later",
        )
    plan, stolen = world.ledger.read(lambda view: _to_start(world, view, wanted, plan_digest))
    # The transactions below begin this very plan or none: its digest is looked at again there.
    demand_all(world, caller, plan)
    for key in stolen:
        demand(world, caller, _marking(key))

    def work(tx: Transaction) -> Rotation:
        plan = planned_now(world, tx, wanted)
        _check_startable(plan, plan_digest)
        approved = approving(world, tx, StartRotation(wanted.repository, plan.digest))
        if approved:
            consume(world, tx, approved, caller.principal)
        rotation = _new(world, tx, caller, plan, grace_s or DEFAULT_GRACE_S)
        tx.put_rotation(rotation)
        return rotation

    def condemn(tx: Transaction) -> None:
        plan = planned_now(world, tx, wanted)
        _check_startable(plan, plan_digest)
        _condemn(world, tx, caller, plan)

    world.ledger.transact(condemn)
    try:
        rotation = world.ledger.transact(work)
    except ApprovalRequired as refused:
        operation = StartRotation(wanted.repository, plan_digest)
        raise ask(world, caller, refused, operation, plan.raw) from refused
    failpoint(Failpoint.ROTATION_STARTED)
    return world.ledger.read(lambda view: progress_of(world, view, rotation))


def cancel(world: World, caller: Caller, name: str, comment: str) -> Progress:
    """Give a rotation up whose payloads nobody trusts yet; keys that were made stay PRE_ACTIVE.

    Raises: PolicyViolation (ROTATION_ACCEPTED, ROTATION_ENDED), ApprovalRequired
    (ROTATION_NEEDS_VOID) while a root version is bound that no other root could take.
    """
    rotation = world.ledger.read(lambda view: recorded_rotation(view, name))
    demand(world, caller, Action("RotationService.CancelRotation", rotation.repository))
    check_comment(comment)
    world.ledger.transact(_cancel(world, caller, name))
    return world.ledger.read(lambda view: progress_of(world, view, recorded_rotation(view, name)))


def _cancel(world: World, caller: Caller, name: str) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        current = recorded_rotation(tx, name)
        if current.state is RotationState.CANCELLED:
            return
        if not current.state.is_open:
            raise PolicyViolation("ROTATION_ENDED", f"{name} is {current.state.value}")
        for file in tx.rotation_files(name):
            _check_abandonable(tx, current, file)
        end(world, tx, current, caller.principal, RotationState.CANCELLED)

    return work


def _check_abandonable(view: View, rotation: Rotation, file: RotationFile) -> None:
    # What its step made before it made this one counts as well.
    trusted = next(accepted_of(view, rotation, file.role), None)
    if trusted is not None:
        raise PolicyViolation(
            "ROTATION_ACCEPTED",
            f"{file.role} {trusted[1]} was accepted: continue, and rotate back if need be",
        )
    found = view.reservation(file.repository, file.role, file.epoch, file.version)
    # Voided, what the version is bound to by now is not this rotation's.
    if found is not None and found.digest == file.digest and file.role == "root":
        raise ApprovalRequired(
            "ROTATION_NEEDS_VOID",
            f"root {file.version} is bound to this rotation and root versions cannot be skipped: "
            "have a quorum void the reservation first",
        )


def _to_start(world: World, view: View, wanted: Wanted, digest: str) -> tuple[Plan, list[Key]]:
    plan = planned_now(world, view, wanted)
    _check_startable(plan, digest)
    return plan, _stolen(plan, view)


def _check_startable(plan: Plan, digest: str) -> None:
    if plan.refusals:
        first = plan.refusals[0]
        raise PolicyViolation(first.reason, first.message, findings=plan.refusals)
    if plan.digest != digest:
        raise PolicyViolation(
            "PLAN_CHANGED",
            "what is recorded has changed since the plan was made: read the new plan",
            details={"plan_sha256": plan.digest},
        )


def _condemn(world: World, tx: Transaction, caller: Caller, plan: Plan) -> None:
    """A stolen key must not sign until somebody has time for it."""
    for key in _stolen(plan, tx):
        # Keys or policy may have changed since the caller was authorised for those of before.
        if refused := denial(world, caller, _marking(key)):
            raise refused
        check_transition(key.state, KeyState.COMPROMISED)
        after = KeyState.COMPROMISED.value
        operation = ChangeKeyState(key.name, key.fingerprint, key.state.value, after)
        # What the policy demands of the call that marks a key holds here as well.
        if approved := approving(world, tx, operation, _marking(key)):
            consume(world, tx, approved, caller.principal)
        tx.put_key(replace(key, state=KeyState.COMPROMISED))
        fields: Fields = {
            "key": key.name,
            "from": key.state.value,
            "to": KeyState.COMPROMISED.value,
            "comment": plan.change.reason,
        }
        now = world.clock.now()
        tx.append(Entry(Event.KEY_STATE_CHANGED, now, caller.principal, fields=fields))


def _marking(key: Key) -> Action:
    return Action("KeyService.MarkKeyCompromised", key=key.name)


def _stolen(plan: Plan, view: View) -> list[Key]:
    """The compromised keys here that are not known to be so yet."""
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in plan.change.compromised)
    return [key for key in held if key is not None and key.state is not KeyState.COMPROMISED]


def _new(world: World, tx: Transaction, caller: Caller, plan: Plan, grace_s: int) -> Rotation:
    name = "r-" + base64.b32encode(os.urandom(16)).decode().lower().rstrip("=")
    now = world.clock.now()
    fields: Fields = {
        "rotation": name,
        "repository": plan.change.repository,
        "kind": plan.change.kind.value,
        "plan_sha256": plan.digest,
        "grace_s": grace_s,
        "reason": plan.change.reason,
        "policy_revision": world.policy.current().revision,
    }
    leaf = tx.append(Entry(Event.ROTATION_STARTED, now, caller.principal, fields=fields))
    return Rotation(
        name=name,
        repository=plan.change.repository,
        kind=plan.change.kind.value,
        plan=plan.raw,
        plan_digest=plan.digest,
        creator=caller.principal,
        grace_s=grace_s,
        leaf=leaf,
        created_at=now,
    )
