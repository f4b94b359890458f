"""The first transaction: the version is bound to its bytes before any token is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from keyd.domain.audit import Entry, Event
from keyd.domain.records import (
    Intent,
    IntentKind,
    IntentState,
    RequestRecord,
    Reservation,
    ReservationState,
)
from keyd.errors import KeydError
from keyd.ports import Transaction
from keyd.services.evidence import still_holds
from keyd.services.prepare import Prepared
from keyd.services.quorum import use_approval
from keyd.services.repositories import claim_listed
from keyd.services.world import World


class StateMoved(KeydError):
    """What the judgement rests on has changed since: judge again. Never leaves the services."""

    def __init__(self) -> None:
        super().__init__("STATE_MOVED", "recorded state changed while the payload was judged")


@dataclass(frozen=True)
class Reserved:
    """A durable reservation with the announcement that a token is about to be asked."""

    prepared: Prepared
    reservation: Reservation
    intent: Intent


def reserve(world: World, prepared: Prepared) -> Callable[[Transaction], Reserved]:
    """The work of one reservation. Raises inside the ledger: StateMoved, PolicyViolation."""

    def work(tx: Transaction) -> Reserved:
        _check_unmoved(tx, prepared)
        announcement = _announcement(world, prepared)
        leaf = tx.append(announcement)
        reservation = prepared.reservation
        use_approval(world, tx, prepared)
        if reservation is None:
            # Key material belongs to one repository: what this payload lists becomes its own.
            claim_listed(tx, prepared.role.repository, prepared.role.name, prepared.payload)
            reservation = _new_reservation(prepared, leaf, announcement.at)
            tx.put_reservation(reservation, prepared.payload.raw)
        intent = Intent(
            leaf=leaf,
            kind=IntentKind.SIGN,
            key=prepared.key.name,
            subject=prepared.subject,
            digest=prepared.payload.digest,
            state=IntentState.OPEN,
        )
        tx.put_intent(intent)
        _remember_request(tx, prepared, announcement.at)
        return Reserved(prepared, reservation, intent)

    return work


def _check_unmoved(tx: Transaction, prepared: Prepared) -> None:
    key = tx.key(prepared.key.name)
    if key is None or key.state is not prepared.key.state:
        raise StateMoved
    role = prepared.role
    existing = tx.reservation(role.repository, role.name, role.epoch, prepared.version)
    if prepared.basis is not None:
        voided = existing is not None and existing.state is ReservationState.VOIDED
        if (existing is not None and not voided) or not still_holds(
            tx, role.repository, prepared.basis
        ):
            raise StateMoved
        return
    if existing is None or existing.digest != prepared.payload.digest:
        raise StateMoved
    if any(s.fingerprint == prepared.key.fingerprint for s in tx.signatures(existing)):
        raise StateMoved


def _new_reservation(prepared: Prepared, leaf: int, at: datetime) -> Reservation:
    return Reservation(
        repository=prepared.role.repository,
        role=prepared.role.name,
        epoch=prepared.role.epoch,
        version=prepared.version,
        digest=prepared.payload.digest,
        required=prepared.required,
        state=ReservationState.RESERVED,
        leaf=leaf,
        created_at=at,
    )


def _announcement(world: World, prepared: Prepared) -> Entry:
    return Entry(
        event=Event.SIGNATURE_INTENDED,
        at=world.clock.now(),
        principal=prepared.caller.principal,
        request_id=prepared.request.request_id,
        fields={
            "repository": prepared.role.repository,
            "role": prepared.role.name,
            "epoch": prepared.role.epoch,
            "version": prepared.version,
            "payload_sha256": prepared.payload.digest,
            "key": prepared.key.name,
            "key_sha256": prepared.key.fingerprint,
            "policy_revision": world.policy.current().revision,
            "added": prepared.reservation is not None,
        },
    )


def _remember_request(tx: Transaction, prepared: Prepared, at: datetime) -> None:
    request = prepared.request
    if request.request_id:
        tx.put_request(
            RequestRecord(
                principal=prepared.caller.principal,
                request_id=request.request_id,
                body_digest=request.body_digest(),
                outcome=prepared.subject,
                at=at,
            )
        )
