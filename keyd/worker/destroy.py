"""Deletion of a key pair: only the recorded one, and nothing of it stays."""

from __future__ import annotations

from pkcs11.types import Session

from keyd.wire.worker_pb2 import Failure, KeyReference
from keyd.worker import objects
from keyd.worker.failures import WorkerFailure
from keyd.worker.operations import prove_pair
from keyd.worker.token import ThreadSeat


def destroy(seat: ThreadSeat, reference: KeyReference) -> int:
    """Delete the pair's objects and look again; return how many there were.

    What an earlier try left is deleted as well: none at all is a success. The private object goes
    first, so that the public one still tells whose rest it is. Raises: PKCS11Error, WorkerFailure.
    """
    with seat.token.turns.generation():
        _check_pair(seat, reference)
        # The one session that the token has left may be needed; the handles kept here are void.
        seat.drop()
        session = seat.token.open_session(read_write=True)
        try:
            return _delete(session, reference)
        finally:
            session.close()
            seat.token.forget_proofs(reference.public_der)


def _check_pair(seat: ThreadSeat, reference: KeyReference) -> None:
    members = objects.group(seat, reference.cka_id)
    if members.private:
        prove_pair(seat, reference)
        return
    if len(members.public) > 1:
        raise WorkerFailure(Failure.KIND_KEY_AMBIGUOUS, "SEVERAL_OBJECTS")
    if members.public and objects.public_ders(members) != {reference.public_der}:
        raise WorkerFailure(Failure.KIND_KEY_NOT_FOUND, "PUBLIC_KEY_DIFFERS")


def _delete(session: Session, reference: KeyReference) -> int:
    found = objects.group_in(session, reference.cka_id)
    doomed = (*found.private, *found.public)
    if len(found.private) > 1 or len(found.public) > 1:
        raise WorkerFailure(Failure.KIND_KEY_AMBIGUOUS, "SEVERAL_OBJECTS")
    for each in doomed:
        each.destroy()
    left = objects.group_in(session, reference.cka_id)
    if left.private or left.public:
        raise WorkerFailure(Failure.KIND_TOKEN_FAILED, "OBJECTS_STAY")
    return len(doomed)
