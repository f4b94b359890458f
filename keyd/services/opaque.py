"""Signing bytes that keyd does not understand, with keys made for nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Content, Key, KeyState
from keyd.domain.opaque import MAX_BYTES, looks_like_tuf
from keyd.domain.operations import SignOpaque
from keyd.domain.policy import Action, Caller
from keyd.domain.records import Intent, IntentKind, IntentState, OpaqueSignature
from keyd.errors import InvalidRequest, KeydError, NotAllowed, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.authorize import demand
from keyd.services.key_use import unusable
from keyd.services.keys import named
from keyd.services.late import Awaited, LateSignatures
from keyd.services.quorum import approving, consume
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World

METHOD = "SigningService.SignOpaque"


@dataclass(frozen=True)
class OpaqueRequest:
    """Bytes and the opaque key to sign them; digests are SHA-256 hex, or "" if left out."""

    key: str
    data: bytes
    key_sha256: str = ""
    data_sha256: str = ""
    request_id: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class OpaqueReleased:
    """A recorded, verified signature over opaque bytes."""

    key: Key
    signature: bytes
    digest: str
    replayed: bool
    log_index: int


def sign_opaque(
    world: World, caller: Caller, request: OpaqueRequest, *, timeout_s: float
) -> OpaqueReleased:
    """Sign bytes, or return the signature recorded for this key and digest.

    Raises: InvalidRequest, NotAllowed, PolicyViolation (OPAQUE_LOOKS_LIKE_TUF), NotFound,
    ApprovalRequired, BackendUnavailable, DeadlineExceeded, SelfCheckFailed.
    """
    deadline = Deadline(world.clock, timeout_s)
    demand(world, caller, Action(METHOD, key=request.key))
    try:
        key, known = world.ledger.read(lambda view: _prepare(world, view, request))
    except (InvalidRequest, NotAllowed, PolicyViolation) as refused:
        world.denials.record(caller, METHOD, refused, request.key)
        raise
    if known is not None and known.signature is not None:
        return OpaqueReleased(key, known.signature, request.digest, True, known.leaf)
    intent = world.ledger.transact(_reserve(world, caller, request, key))
    failpoint(Failpoint.SIGN_AFTER_RESERVE)

    def record(answer: bytes | KeydError) -> OpaqueReleased | KeydError:
        return world.ledger.transact(
            _complete(world, caller, request, key=key, intent=intent, answer=answer)
        )

    late = LateSignatures(world, [Awaited(key, request.data, record)])
    message = (key, request.data)
    answer = sign_verified(world, key.token, [message], deadline, late.arrived)[0]
    failpoint(Failpoint.SIGN_AFTER_VERIFY)
    outcome = record(answer)
    late.take_up()
    failpoint(Failpoint.SIGN_BEFORE_ANSWER)
    if isinstance(outcome, KeydError):
        raise outcome
    return outcome


def _prepare(
    world: World, view: View, request: OpaqueRequest
) -> tuple[Key, OpaqueSignature | None]:
    if not request.data or len(request.data) > MAX_BYTES:
        raise InvalidRequest("PAYLOAD_TOO_LARGE", f"sign 1 to {MAX_BYTES} bytes at a time")
    if request.data_sha256 and request.data_sha256 != request.digest:
        raise InvalidRequest(
            "PAYLOAD_CHECKSUM_MISMATCH",
            "the data do not have the digest the request states; they were damaged on their way",
        )
    key = named(view, request.key)
    if request.key_sha256 and request.key_sha256 != key.fingerprint:
        raise NotAllowed(
            "KEY_MISMATCH", f"the key named {key.name!r} is not the key pair the request means"
        )
    if key.content is not Content.OPAQUE:
        raise NotAllowed(
            "KEY_CONTENT_MISMATCH",
            f"key {key.name!r} was created for {key.content.value} content; opaque bytes need a "
            "key created with --content opaque",
        )
    if not _tuf_allowed(world, view) and looks_like_tuf(request.data):
        raise PolicyViolation(
            "OPAQUE_LOOKS_LIKE_TUF",
            "these bytes look like TUF metadata; sign them with a tuf key through SignMetadata",
        )
    known = view.opaque(key.name, request.digest)
    if key.state is not KeyState.ACTIVE and (known is None or known.signature is None):
        raise unusable(key)
    return key, known


def _tuf_allowed(world: World, view: View) -> bool:
    return world.opaque_may_sign_tuf and view.identity().development


def _reserve(
    world: World, caller: Caller, request: OpaqueRequest, key: Key
) -> Callable[[Transaction], Intent]:
    def work(tx: Transaction) -> Intent:
        current = named(tx, key.name)
        if current.state is not KeyState.ACTIVE:
            raise unusable(current)
        first = tx.opaque(key.name, request.digest) is None
        if first:
            _use_approval(world, tx, caller, request, key)
        entry = _entry(world, caller, request, key, Event.OPAQUE_INTENDED)
        leaf = tx.append(entry)
        if first:
            tx.put_opaque(OpaqueSignature(key.name, request.digest, None, leaf, entry.at))
        intent = Intent(
            leaf, IntentKind.SIGN_OPAQUE, key.name, "opaque", request.digest, IntentState.OPEN
        )
        tx.put_intent(intent)
        return intent

    return work


def _use_approval(
    world: World, tx: Transaction, caller: Caller, request: OpaqueRequest, key: Key
) -> None:
    """Bytes are approved once for a key: whoever asks again, or after a crash, needs no officers.

    Raises: ApprovalRequired.
    """
    operation = SignOpaque(key.name, key.fingerprint, request.digest)
    if proposal := approving(world, tx, operation):
        consume(world, tx, proposal, caller.principal)


def _complete(
    world: World,
    caller: Caller,
    request: OpaqueRequest,
    *,
    key: Key,
    intent: Intent,
    answer: bytes | KeydError,
) -> Callable[[Transaction], OpaqueReleased | KeydError]:
    def work(tx: Transaction) -> OpaqueReleased | KeydError:
        current = named(tx, key.name)
        # It may have been withdrawn while the token was at work.
        signature = answer if current.state is KeyState.ACTIVE else unusable(current)
        if isinstance(signature, KeydError):
            failed = _entry(
                *(world, caller, request, key, Event.OPAQUE_FAILED),
                intent=intent.leaf,
                reason=signature.reason,
            )
            tx.append(failed)
            tx.put_intent(replace(intent, state=IntentState.UNKNOWN))
            return signature
        known = tx.opaque(key.name, request.digest)
        first = known.signature if known else None
        completed = _entry(
            *(world, caller, request, key, Event.OPAQUE_COMPLETED),
            intent=intent.leaf,
            signature=signature.hex(),
            discarded=first is not None,
        )
        leaf = tx.append(completed)
        tx.put_intent(replace(intent, state=IntentState.COMPLETED))
        if known is not None and first is not None:
            return OpaqueReleased(key, first, request.digest, True, known.leaf)
        stored = OpaqueSignature(key.name, request.digest, signature, leaf, completed.at)
        tx.put_opaque(stored)
        return OpaqueReleased(key, signature, request.digest, False, leaf)

    return work


def _entry(
    world: World,
    caller: Caller,
    request: OpaqueRequest,
    key: Key,
    event: Event,
    **fields: str | int | bool,
) -> Entry:
    return Entry(
        event=event,
        at=world.clock.now(),
        principal=caller.principal,
        request_id=request.request_id,
        fields={
            "content": "opaque",
            "key": key.name,
            "key_sha256": key.fingerprint,
            "data_sha256": request.digest,
            "policy_revision": world.policy.current().revision,
            **fields,
        },
    )
