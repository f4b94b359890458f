"""Binding a rotation's payload to its version before anybody signs it.

The same order as for every signature, except that no key is asked yet: parse, rules, then one
transaction in which the state is as it was judged. Signers join the reservation, those with keys
here through `keyd.services.sign`, the others with its receipt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.domain.audit import Entry, Event
from keyd.domain.operations import SignMetadata
from keyd.domain.payload import Payload, parse
from keyd.domain.records import Repository, Reservation, ReservationState, Role
from keyd.domain.records_rotation import Rotation, RotationFile, RotationState
from keyd.domain.rules import judge
from keyd.domain.trust import Basis, KeySet, Question
from keyd.errors import ApprovalRequired, BackendUnavailable
from keyd.ports import Transaction, View
from keyd.services.evidence import gather, role_or_new, rules_of, still_holds
from keyd.services.quorum import approving, consume
from keyd.services.refusals import refusal
from keyd.services.repositories import claim_listed, existing
from keyd.services.rotation.confirming import change_digest
from keyd.services.rotation.plans import plan_behind, still_open
from keyd.services.world import World

_ROUNDS = 8
# Makes the payload of a role's next version, given the role as it will be bound.
Build = Callable[[View, Role], bytes]


@dataclass(frozen=True)
class SigningStep:
    """A step of a plan that signs `role`.

    `lower`, of a recovery, is the version that the role goes on from in a new epoch; else 0.
    """

    rotation: Rotation
    number: int
    role: str
    build: Build
    lower: int = 0


class StepNeedsApproval(ApprovalRequired):
    """Officers have to agree to this payload first; `operation` is what they decide on."""

    def __init__(self, refused: ApprovalRequired, operation: SignMetadata, payload: bytes) -> None:
        super().__init__(refused.reason, refused.message, details=refused.details)
        self.operation = operation
        self.payload = payload


@dataclass(frozen=True)
class _Judged:
    repository: Repository
    role: Role
    payload: Payload
    required: tuple[KeySet, ...]
    basis: Basis

    @property
    def version(self) -> int:
        version: int = self.payload.signed["version"]
        return version


def reserve_step(world: World, principal: str, step: SigningStep) -> RotationFile:
    """Build, judge and reserve the payload of one signing step; durable when this returns.

    A recovery's new epoch begins in the same transaction, so that it never lacks its first payload.
    Raises: PolicyViolation and the other refusals of the rules, StepNeedsApproval,
    BackendUnavailable (ROLE_BUSY).
    """
    for _ in range(_ROUNDS):
        judged = world.ledger.read(lambda view: _judge(world, view, step))
        bound = world.ledger.transact(_bind(world, principal, step, judged))
        if bound is not None:
            return bound
    raise BackendUnavailable(
        "ROLE_BUSY",
        f"the recorded state of {step.rotation.repository}/{step.role} kept changing; continue "
        "again",
        retry_after_s=0.1,
    )


def _judge(world: World, view: View, step: SigningStep) -> _Judged:
    repository = existing(view, step.rotation.repository)
    role = _role(view, step)
    rules = rules_of(role)
    payload = parse(
        step.build(view, role),
        max_bytes=rules.payload_max_bytes,
        extra_members=rules.extra_members,
    )
    # Here and nowhere else may references go down: others' payloads are judged as ever.
    lowered = frozenset(plan_behind(step.rotation).change.lower)
    evidence = replace(gather(view, repository, role, payload), lowered=lowered)
    confirmed = change_digest(view, repository.name, role.name, payload)
    judgement = judge(Question(payload, world.clock.now(), confirmed_change=confirmed), evidence)
    if judgement.refusals:
        raise refusal(judgement.refusals)
    _approving(world, view, role, payload)
    return _Judged(repository, role, payload, judgement.required, evidence.basis)


def _approving(world: World, view: View, role: Role, payload: Payload) -> str:
    """As for every first signature of a version. Raises: StepNeedsApproval."""
    operation = SignMetadata(
        role.repository, role.name, role.epoch, payload.signed["version"], payload.digest
    )
    try:
        return approving(world, view, operation)
    except ApprovalRequired as refused:
        raise StepNeedsApproval(refused, operation, payload.raw) from refused


def _role(view: View, step: SigningStep) -> Role:
    """The role as it will be bound: in a new epoch if this rotation has not begun it yet."""
    role = role_or_new(view, step.rotation.repository, step.role)
    if step.lower and view.rotation_file(step.rotation.name, step.number) is None:
        return replace(role, epoch=role.epoch + 1, high_water=step.lower - 1)
    return role


def _bind(
    world: World, principal: str, step: SigningStep, judged: _Judged
) -> Callable[[Transaction], RotationFile | None]:
    role = judged.role

    def work(tx: Transaction) -> RotationFile | None:
        # Somebody may have given the rotation up since the step began.
        rotation = still_open(tx, step.rotation.name)
        if not still_holds(tx, role.repository, judged.basis):
            return None
        bound = tx.reservation(role.repository, role.name, role.epoch, judged.version)
        if bound is not None and bound.state is not ReservationState.VOIDED:
            return None
        if role.epoch > role_or_new(tx, role.repository, role.name).epoch:
            tx.append(_lowering(world, principal, rotation, role))
            tx.put_role(role)
        # Rules, officers and policy of this moment count, whatever held when it was judged.
        if approved := _approving(world, tx, role, judged.payload):
            consume(world, tx, approved, principal)
        entry = _entry(world, principal, step, judged)
        leaf = tx.append(entry)
        claim_listed(tx, role.repository, role.name, judged.payload)
        reservation = _reservation(judged, leaf, entry.at)
        tx.put_reservation(reservation, judged.payload.raw)
        file = RotationFile(
            rotation=rotation.name,
            step=step.number,
            repository=role.repository,
            role=role.name,
            epoch=role.epoch,
            version=judged.version,
            digest=judged.payload.digest,
            leaf=leaf,
        )
        tx.put_rotation_file(file)
        if rotation.state is RotationState.READY:
            tx.put_rotation(replace(rotation, state=RotationState.RUNNING))
        return file

    return work


def _reservation(judged: _Judged, leaf: int, at: datetime) -> Reservation:
    return Reservation(
        repository=judged.role.repository,
        role=judged.role.name,
        epoch=judged.role.epoch,
        version=judged.version,
        digest=judged.payload.digest,
        required=judged.required,
        state=ReservationState.RESERVED,
        leaf=leaf,
        created_at=at,
    )


def _lowering(world: World, principal: str, rotation: Rotation, role: Role) -> Entry:
    return Entry(
        event=Event.VERSIONS_LOWERED,
        at=world.clock.now(),
        principal=principal,
        fields={
            "rotation": rotation.name,
            "repository": role.repository,
            "role": role.name,
            "epoch": role.epoch,
            "mark": role.high_water,
            "trusted_version": role.trusted_version,
        },
    )


def _entry(world: World, principal: str, step: SigningStep, judged: _Judged) -> Entry:
    return Entry(
        event=Event.VERSION_RESERVED,
        at=world.clock.now(),
        principal=principal,
        fields={
            "rotation": step.rotation.name,
            "step": step.number,
            "repository": judged.role.repository,
            "role": judged.role.name,
            "epoch": judged.role.epoch,
            "version": judged.version,
            "payload_sha256": judged.payload.digest,
            "policy_revision": world.policy.current().revision,
        },
    )
