"""What a session thread does for one request."""

from __future__ import annotations

import os

from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object, SignMixin

from keyd.wire.worker_pb2 import Failure, Generate, KeyPair, KeyPairs, KeyReference, Sign
from keyd.worker import objects, public_keys, schemes
from keyd.worker.failures import WorkerFailure, generation_may_pass, may_pass
from keyd.worker.generate import check_attributes, check_plan, generate_pair
from keyd.worker.token import ThreadSeat

_PAIR_TEST = b"keyd pair-wise test, not TUF metadata\n"


def sign(seat: ThreadSeat, request: Sign) -> bytes:
    """The signature in its TUF form.

    An error closes the session; once, a new session and a new search are tried (steps 1 and 2 of
    the recovery ladder). Signing the same message twice is harmless. Raises: PKCS11Error,
    WorkerFailure.
    """
    try:
        return _sign(seat, request)
    except PKCS11Error as error:
        seat.drop()
        if not may_pass(error):
            raise
    return _sign(seat, request)


def generate(seat: ThreadSeat, request: Generate) -> KeyPair:
    """Make a key pair, read it back, demand its attributes and test it.

    A generation that failed and left nothing under its CKA_ID is tried once more.
    Raises: PKCS11Error, WorkerFailure. Whatever was made by then stays on the token as a stray.
    """
    check_plan(request)
    with seat.token.turns.generation():
        if _made(seat, request.cka_id):
            raise WorkerFailure(Failure.KIND_KEY_AMBIGUOUS, "CKA_ID_TAKEN")
        try:
            _generate_pair(seat, request)
        except PKCS11Error as error:
            if not generation_may_pass(error) or _made(seat, request.cka_id):
                raise
            _generate_pair(seat, request)
        pair = _find(seat, request.cka_id)
        check_attributes(pair, waive_local=request.waive_local)
        reference = KeyReference(
            cka_id=request.cka_id, public_der=pair.public_der, scheme=request.scheme
        )
        _resolve(seat, reference)
    return pair


def find(seat: ThreadSeat, cka_id: bytes) -> KeyPair:
    """The one pair with this CKA_ID. Raises: PKCS11Error, WorkerFailure."""
    if not cka_id:
        raise WorkerFailure(Failure.KIND_INVALID, "CKA_ID_EMPTY")
    with seat.token.turns.search():
        return _find(seat, cka_id)


def inventory(seat: ThreadSeat) -> KeyPairs:
    """Every key object on the token. Raises: PKCS11Error."""
    with seat.token.turns.search():
        return KeyPairs(pairs=[objects.describe(each) for each in objects.groups(seat.session())])


def prove_pair(seat: ThreadSeat, reference: KeyReference) -> None:
    """Check by a signature that this one pair is there. Raises: PKCS11Error, WorkerFailure."""
    _resolve(seat, reference)


def _find(seat: ThreadSeat, cka_id: bytes) -> KeyPair:
    members = objects.group(seat, cka_id)
    if not members.private:
        raise WorkerFailure(Failure.KIND_KEY_NOT_FOUND, "NO_PRIVATE_KEY")
    return objects.describe(members)


def _generate_pair(seat: ThreadSeat, request: Generate) -> None:
    # A key generation may need the one session that the token has left.
    seat.drop()
    session = seat.token.open_session(read_write=True)
    try:
        generate_pair(session, request)
    finally:
        session.close()


def _made(seat: ThreadSeat, cka_id: bytes) -> bool:
    """Whether any half of a pair has this CKA_ID. Raises: PKCS11Error."""
    members = objects.group(seat, cka_id)
    return bool(members.private or members.public)


def _sign(seat: ThreadSeat, request: Sign) -> bytes:
    reference = request.key
    key = seat.key((reference.cka_id, reference.public_der))
    if key is None:
        with seat.token.turns.search():
            key = _resolve(seat, reference)
    try:
        return schemes.sign(key, reference.scheme, request.data, seat.token.mechanisms)
    except KeyError as error:
        raise WorkerFailure(Failure.KIND_INVALID, "SCHEME") from error


def _resolve(seat: ThreadSeat, reference: KeyReference) -> SignMixin:
    """The private key that belongs to a CKA_ID and a public key, and to nothing else."""
    public = public_keys.from_der(reference.public_der)
    if public is None or not schemes.fits(reference.scheme, public):
        raise WorkerFailure(Failure.KIND_INVALID, "KEY_REFERENCE")
    members = objects.group(seat, reference.cka_id)
    if len(members.private) > 1 or len(members.public) > 1:
        raise WorkerFailure(Failure.KIND_KEY_AMBIGUOUS, "SEVERAL_OBJECTS")
    if not members.private:
        raise WorkerFailure(Failure.KIND_KEY_NOT_FOUND, "NO_PRIVATE_KEY")
    named = objects.public_ders(members)
    if named and named != {reference.public_der}:
        raise WorkerFailure(Failure.KIND_KEY_NOT_FOUND, "PUBLIC_KEY_DIFFERS")
    key = _signing(members.private[0])
    _prove(seat, key, reference, public)
    seat.keep((reference.cka_id, reference.public_der), key)
    return key


def _signing(key: Object) -> SignMixin:
    if not isinstance(key, SignMixin):
        # A registered key may sign: either it is another one, or its attributes could not be read.
        raise WorkerFailure(Failure.KIND_KEY_NOT_FOUND, "CKA_SIGN")
    return key


def _prove(
    seat: ThreadSeat, key: SignMixin, reference: KeyReference, public: public_keys.PublicKey
) -> None:
    """Sign and verify once per object: labels and IDs can be swapped by anyone with the PIN."""
    proof = (key.handle, reference.public_der)
    if proof in seat.token.proven:
        return
    challenge = _PAIR_TEST + os.urandom(32)
    signature = schemes.sign(key, reference.scheme, challenge, seat.token.mechanisms)
    if not schemes.verifies(public, reference.scheme, signature, challenge):
        raise WorkerFailure(Failure.KIND_PAIR_BROKEN, "PAIR_TEST")
    seat.token.proven.add(proof)
