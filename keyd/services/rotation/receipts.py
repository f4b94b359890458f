"""Receipts of reservations, for those who sign elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyd.domain import dsse, public_keys
from keyd.domain.receipts import PAYLOAD_TYPE, ReservationReceipt, place_in
from keyd.domain.records import Reservation
from keyd.domain.records_rotation import Rotation, RotationFile
from keyd.errors import KeydError, NotFound, PolicyViolation
from keyd.ports import View
from keyd.services.audit import log_key
from keyd.services.key_creation import LOG_KEY_NAME
from keyd.services.rotation.bound import is_bound
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World


@dataclass(frozen=True)
class ToSign:
    """A payload that waits for signatures, with its receipt."""

    file: RotationFile
    payload: bytes
    receipt: bytes


def issue(world: World, rotation: Rotation, role: str, timeout_s: float) -> ToSign:
    """The payload of the step that signs `role`, and the log key's word that it is bound.

    Raises: NotFound (NOTHING_RESERVED), PolicyViolation (LOG_KEY_MISSING), BackendUnavailable.
    """
    now = world.clock.now()
    file, receipt, payload = world.ledger.read(lambda view: _bound(view, rotation, role, now))
    key = log_key(world)
    statement = receipt.statement()
    answer = sign_verified(
        world,
        key.token,
        [(key, dsse.pae(PAYLOAD_TYPE, statement))],
        Deadline(world.clock, timeout_s),
    )[0]
    if isinstance(answer, KeydError):
        raise answer
    envelope = dsse.Envelope(PAYLOAD_TYPE, statement, key.fingerprint, answer)
    return ToSign(file, payload, dsse.encode(envelope))


def check(view: View, rotation: Rotation, receipt: bytes) -> Reservation:
    """The reservation that a receipt stands for.

    Raises: InvalidRequest (ENVELOPE_MALFORMED), PolicyViolation (RECEIPT_INVALID: not signed by
    this log, of another rotation, or of a version that is bound otherwise by now).
    """
    envelope = dsse.decode(receipt)
    key = view.key(LOG_KEY_NAME)
    if key is None or envelope.payload_type != PAYLOAD_TYPE:
        raise _invalid("it is an envelope of another kind")
    try:
        public_keys.verify(
            key.public_der,
            key.scheme,
            dsse.pae(envelope.payload_type, envelope.payload),
            envelope.signature,
        )
    except KeydError as error:
        raise _invalid("it is not signed by this daemon's log key") from error
    daemon, name, role, epoch, version = place_in(envelope.payload)
    if (daemon, name) != (view.identity().ledger_id, rotation.name):
        raise _invalid("it belongs to another rotation")
    found = view.reservation(rotation.repository, role, epoch, version)
    if found is None or _statement(view, rotation, found) != envelope.payload:
        raise _invalid("the version is no longer bound as it says")
    return found


def _bound(
    view: View, rotation: Rotation, role: str, now: datetime
) -> tuple[RotationFile, ReservationReceipt, bytes]:
    files = [file for file in view.rotation_files(rotation.name) if file.role == role]
    if not files:
        raise NotFound(
            "NOTHING_RESERVED",
            f"nothing is reserved for {role!r} in {rotation.name} yet: continue it first",
        )
    file = files[-1]
    found = view.reservation(file.repository, file.role, file.epoch, file.version)
    if found is None or not is_bound(view, file, now):
        raise NotFound(
            "NOTHING_RESERVED",
            f"{role} {file.version} was voided or overtaken, or has expired: continue "
            f"{rotation.name}, then ask again",
        )
    receipt = ReservationReceipt(view.identity().ledger_id, rotation.name, found)
    return file, receipt, view.payload(file.digest)


def _statement(view: View, rotation: Rotation, reservation: Reservation) -> bytes:
    return ReservationReceipt(view.identity().ledger_id, rotation.name, reservation).statement()


def _invalid(why: str) -> PolicyViolation:
    return PolicyViolation(
        "RECEIPT_INVALID", f"the receipt is refused: {why}; fetch it again with GetReceipt"
    )
