"""The second transaction: the signature and its completion are durable before it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keyd.domain.audit import Entry, Event
from keyd.domain.payload import Payload
from keyd.domain.records import (
    IntentState,
    Reservation,
    ReservationState,
    StoredSignature,
    altered,
)
from keyd.errors import BackendUnavailable, DeadlineExceeded, KeydError, StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction
from keyd.services.acceptance import accept, lacking
from keyd.services.answers import Answer
from keyd.services.key_use import check_usable
from keyd.services.released import Released, released
from keyd.services.reserve import Reserved
from keyd.services.world import World


def record_signatures(world: World, answers: Sequence[Answer]) -> list[Released | KeydError]:
    """Record every answer in one group; what could not be recorded is not released."""
    failpoint(Failpoint.SIGN_AFTER_VERIFY)
    recorded = world.ledger.transact_each([_record(world, answer) for answer in answers])
    return [_outcome(result) for result in recorded]


def _outcome(result: Released | KeydError | Exception) -> Released | KeydError:
    if isinstance(result, (Released, KeydError)):
        return result
    raise result


def _record(world: World, answer: Answer) -> Callable[[Transaction], Released | KeydError]:
    if isinstance(answer.outcome, KeydError):
        return _failed(world, answer.reserved, answer.outcome)
    return _completed(world, answer.reserved, answer.outcome)


def _completed(
    world: World, reserved: Reserved, signature: bytes
) -> Callable[[Transaction], Released | KeydError]:
    prepared = reserved.prepared
    fingerprint = prepared.key.fingerprint

    def work(tx: Transaction) -> Released | KeydError:
        if withdrawn := _withdrawn(tx, reserved):
            return _failed(world, reserved, withdrawn)(tx)
        reservation = _current(tx, reserved)
        made = _made(tx, reservation)
        missing = lacking(tx, reservation, {*made, fingerprint})
        complete = not missing
        entry = _completion(
            world,
            reserved,
            signature,
            accepted=complete,
            discarded=fingerprint in made,
        )
        leaf = tx.append(entry)
        tx.put_intent(altered(reserved.intent, state=IntentState.COMPLETED))
        if fingerprint in made:
            # Two calls for the same bytes met at the token: the one recorded first stands.
            return released(
                prepared.key, reservation, made[fingerprint], missing=missing, replayed=True
            )
        stored = StoredSignature(fingerprint, prepared.key.name, signature, leaf, entry.at)
        tx.put_signature(reservation, stored)
        reservation = _advance(tx, reservation, prepared.payload, complete)
        return released(
            prepared.key,
            reservation,
            stored,
            missing=missing,
            replayed=False,
            warnings=prepared.warnings,
        )

    return work


def _withdrawn(tx: Transaction, reserved: Reserved) -> KeydError | None:
    """Why the key may no longer sign this, if its state changed while the token was at work."""
    prepared = reserved.prepared
    key = tx.key(prepared.key.name)
    if key is None or key.state is prepared.key.state:
        return None
    try:
        check_usable(tx, key, prepared.role, prepared.payload, prepared.required)
    except KeydError as refused:
        return refused
    return None


def _advance(
    tx: Transaction, reservation: Reservation, payload: Payload, complete: bool
) -> Reservation:
    """The reservation's next state: signed, and accepted as soon as every set is satisfied."""
    if reservation.state is ReservationState.ACCEPTED:
        return reservation
    if complete:
        return accept(tx, reservation, payload)
    signed = replace(reservation, state=ReservationState.SIGNED)
    tx.put_reservation(signed, payload.raw)
    return signed


def _made(tx: Transaction, reservation: Reservation) -> dict[str, StoredSignature]:
    """Signatures by fingerprint; a reservation leaves the state RESERVED with its first one."""
    if reservation.state is ReservationState.RESERVED:
        return {}
    return {s.fingerprint: s for s in tx.signatures(reservation)}


def _current(tx: Transaction, reserved: Reserved) -> Reservation:
    known = reserved.reservation
    found = tx.reservation(known.repository, known.role, known.epoch, known.version)
    if found is None or found.digest != known.digest:
        raise StateCorrupt(
            "RESERVATION_LOST",
            "the reservation of a payload that was just signed is gone from the ledger; "
            "stop the daemon and run keyd audit verify",
        )
    return found


def _failed(
    world: World, reserved: Reserved, failure: KeydError
) -> Callable[[Transaction], Released | KeydError]:
    unknown = isinstance(failure, (DeadlineExceeded, BackendUnavailable)) and (
        failure.details.get("outcome") != "NOT_STARTED"
    )

    def work(tx: Transaction) -> KeydError:
        state = IntentState.UNKNOWN if unknown else IntentState.FAILED
        tx.append(_failure(world, reserved, failure, state))
        tx.put_intent(replace(reserved.intent, state=state))
        return failure

    return work


def _completion(
    world: World,
    reserved: Reserved,
    signature: bytes,
    *,
    accepted: bool,
    discarded: bool,
) -> Entry:
    return Entry(
        event=Event.SIGNATURE_COMPLETED,
        at=world.clock.now(),
        principal=reserved.prepared.caller.principal,
        request_id=reserved.prepared.request.request_id,
        fields={
            "intent": reserved.intent.leaf,
            "signature": signature.hex(),
            "accepted": accepted,
            "discarded": discarded,
            **_named(reserved),
        },
    )


def _failure(world: World, reserved: Reserved, failure: KeydError, state: IntentState) -> Entry:
    return Entry(
        event=Event.SIGNATURE_FAILED,
        at=world.clock.now(),
        principal=reserved.prepared.caller.principal,
        request_id=reserved.prepared.request.request_id,
        fields={
            "intent": reserved.intent.leaf,
            "reason": failure.reason,
            "outcome": state.value,
            **_named(reserved),
        },
    )


def _named(reserved: Reserved) -> dict[str, str | int]:
    return {
        "repository": reserved.reservation.repository,
        "role": reserved.reservation.role,
        "epoch": reserved.reservation.epoch,
        "version": reserved.reservation.version,
        "payload_sha256": reserved.reservation.digest,
        "key": reserved.prepared.key.name,
        "key_sha256": reserved.prepared.key.fingerprint,
    }
