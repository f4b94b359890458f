"""How a key pair becomes keyd's: generated on a token, or adopted from one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from keyd.domain import public_keys
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Content, Key, KeySpec, KeyState, Origin, Scheme
from keyd.domain.names import check_name
from keyd.domain.operations import CreateKey
from keyd.domain.policy import Action, Caller
from keyd.domain.records import Intent, IntentKind, IntentState, RequestRecord
from keyd.domain.tokens import FoundKey
from keyd.errors import AlreadyExists, ApprovalRequired, InvalidRequest, KeydError, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.authorize import demand
from keyd.services.quorum import approving, check_approved, consume
from keyd.services.repositories import check_not_officers
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World

RSA_SIZES = (2048, 3072, 4096)
LOG_KEY_NAME = "keyd-log"
_SELF_CHECK = b"keyd key self-check, not TUF metadata\n"


def create_key(
    world: World,
    caller: Caller,
    *,
    name: str,
    token: str,
    spec: KeySpec,
    content: Content,
    request_id: str = "",
    timeout_s: float,
) -> Key:
    """Generate, check and register a key pair; with a known `request_id`, return the same key.

    The intent with its random CKA_ID is durable before the token is asked: a crash in between
    leaves a stray on the token and no key here.

    Raises: AlreadyExists, InvalidRequest, ApprovalRequired, BackendUnavailable, DeadlineExceeded,
    SelfCheckFailed.
    """
    demand(world, caller, Action("KeyService.CreateKey", key=name, token=token))
    _check_new(name, content)
    _check_spec(spec)
    body = _body_digest(name, token, spec, content)
    known = world.ledger.read(lambda view: _known(view, caller, request_id, body))
    if known is not None:
        return known
    record = RequestRecord(caller.principal, request_id, body, name, world.clock.now())
    return generate(
        world,
        caller.principal,
        name=name,
        token=token,
        spec=spec,
        content=content,
        request=record if request_id else None,
        approval=_operation(name, token, spec, content),
        timeout_s=timeout_s,
    )


def carry_out(
    world: World, principal: str, operation: CreateKey, *, proposal: str, timeout_s: float
) -> Key:
    """Make the key that officers approved; until there is one, the approval stands.

    Raises: as `create_key`, and ApprovalRequired.
    """
    spec, content = wanted(operation)
    return generate(
        world,
        principal,
        name=operation.key,
        token=operation.token,
        spec=spec,
        content=content,
        approval=proposal,
        timeout_s=timeout_s,
    )


def wanted(operation: CreateKey) -> tuple[KeySpec, Content]:
    """What an operation wants made. Raises: InvalidRequest."""
    try:
        spec = KeySpec(Scheme(operation.scheme), operation.rsa_bits)
        content = Content(operation.content)
    except ValueError as error:
        raise InvalidRequest(
            "OPERATION_MALFORMED", "the operation names no scheme and content that keyd knows"
        ) from error
    check_name("token", operation.token)
    _check_new(operation.key, content)
    _check_spec(spec)
    return spec, content


def _operation(name: str, token: str, spec: KeySpec, content: Content) -> CreateKey:
    return CreateKey(name, token, spec.scheme.value, spec.rsa_bits, content.value)


def generate(
    world: World,
    principal: str,
    *,
    name: str,
    token: str,
    spec: KeySpec,
    content: Content,
    request: RequestRecord | None = None,
    approval: CreateKey | str = "",
    timeout_s: float,
) -> Key:
    """The use case behind `create_key`, for callers that are already authorised.

    `approval`: the operation that officers may have to approve, or the proposal in which they did.
    It must hold when the generation is announced, and is used up in the transaction that registers
    the key: whatever interrupts the token, the same approval makes one key, and never two.
    """
    deadline = Deadline(world.clock, timeout_s)
    backend = world.tokens.get(token)
    cka_id = os.urandom(16)
    intent = world.ledger.transact(
        _announce(*(world, principal, approval), name=name, token=token, spec=spec, cka_id=cka_id)
    )
    failpoint(Failpoint.KEY_AFTER_INTENT)
    try:
        found = backend.generate(spec, cka_id, name, deadline.remaining_s())
        failpoint(Failpoint.KEY_AFTER_GENERATE)
        _fitting(found, cka_id)
        key = _registered(
            world,
            found,
            name=name,
            token=token,
            scheme=spec.scheme,
            content=content,
            origin=Origin.GENERATED,
        )
        _prove_possession(world, key, deadline)
    except KeydError as failure:
        _close(world, principal, intent, failure)
        raise
    register = _register(principal, key, waived=found.waived, intent=intent, request=request)
    _record(world, principal, approval, intent, register)
    failpoint(Failpoint.KEY_BEFORE_ANSWER)
    return key


def _record(
    world: World,
    principal: str,
    approval: CreateKey | str,
    intent: Intent,
    register: Callable[[Transaction], None],
) -> None:
    """Use the approval up and register the key, or neither. Raises: ApprovalRequired."""

    def work(tx: Transaction) -> None:
        if proposal := _approved(world, tx, approval):
            consume(world, tx, proposal, principal)
        register(tx)

    try:
        world.ledger.transact(work)
    except ApprovalRequired as lapsed:
        # Taken back, or overtaken, while the token was at work: the pair stays a stray.
        _close(world, principal, intent, lapsed)
        raise


def _approved(world: World, view: View, approval: CreateKey | str) -> str:
    """The approved proposal behind `approval`, "" if nobody has to be asked.

    Raises: ApprovalRequired.
    """
    if isinstance(approval, CreateKey):
        return approving(world, view, approval)
    if approval:
        check_approved(world, view, approval)
    return approval


def adopt_key(
    world: World,
    caller: Caller,
    *,
    name: str,
    token: str,
    cka_id: bytes,
    scheme: Scheme | None,
    content: Content,
    expected_sha256: str = "",
    timeout_s: float,
) -> Key:
    """Register a key pair made outside keyd, once its token has signed a fresh nonce with it.

    Raises: AlreadyExists, NotFound, InvalidRequest (unfit attributes, another fingerprint).
    """
    demand(world, caller, Action("KeyService.AdoptKey", key=name, token=token))
    _check_new(name, content)
    deadline = Deadline(world.clock, timeout_s)
    found = world.tokens.get(token).find(cka_id, deadline.remaining_s())
    usual = _fitting(found, cka_id)
    key = _registered(
        world,
        found,
        name=name,
        token=token,
        scheme=scheme or usual,
        content=content,
        origin=Origin.ADOPTED,
    )
    if expected_sha256 and expected_sha256 != key.fingerprint:
        raise InvalidRequest(
            "KEY_MISMATCH", "the token holds another public key under this CKA_ID than expected"
        )
    world.ledger.read(lambda view: check_free(view, name, key.fingerprint))
    _prove_possession(world, key, deadline)
    world.ledger.transact(_register(caller.principal, key, waived=found.waived))
    return key


def _fitting(found: FoundKey, cka_id: bytes) -> Scheme:
    """The scheme of a usable pair; a worker's answer is not believed for its own sake.

    Raises: InvalidRequest (KEY_UNFIT).
    """
    if found.cka_id == cka_id and found.healthy and found.scheme is not None:
        return found.scheme
    problem = found.problem or "keyd knows no scheme for this kind of key"
    if found.cka_id != cka_id:
        problem = "the token answered about another pair"
    raise InvalidRequest("KEY_UNFIT", f"the key pair cannot be used: {problem}")


def _check_new(name: str, content: Content) -> None:
    """Nobody but the daemon makes the log key, or a key that could be taken for it."""
    check_name("key", name)
    if content is Content.LOG or name == LOG_KEY_NAME:
        raise InvalidRequest(
            "KEY_RESERVED", f"the log key {LOG_KEY_NAME!r} is made by the daemon itself"
        )


def _check_spec(spec: KeySpec) -> None:
    if spec.scheme.is_rsa and spec.rsa_bits not in RSA_SIZES:
        raise InvalidRequest("RSA_BITS_INVALID", f"RSA keys have one of {RSA_SIZES} bits")
    if not spec.scheme.is_rsa and spec.rsa_bits:
        raise InvalidRequest("RSA_BITS_INVALID", f"{spec.scheme.value} has no size to choose")


def _body_digest(name: str, token: str, spec: KeySpec, content: Content) -> str:
    body = "\0".join((name, token, spec.scheme.value, str(spec.rsa_bits), content.value))
    return hashlib.sha256(body.encode()).hexdigest()


def _known(view: View, caller: Caller, request_id: str, body: str) -> Key | None:
    record = view.request(caller.principal, request_id) if request_id else None
    if record is None:
        return None
    if record.body_digest != body:
        raise InvalidRequest(
            "REQUEST_ID_REUSED",
            "this request id was used for another request; choose a new one for new content",
        )
    return view.key(record.outcome)


def check_free(view: View, name: str, fingerprint: str = "") -> None:
    """Raises: AlreadyExists (KEY_EXISTS) when the name, or the pair, is another key's."""
    waiting = (i for i in view.open_intents() if i.kind is IntentKind.GENERATE)
    if view.key(name) or any(intent.key == name for intent in waiting):
        raise AlreadyExists("KEY_EXISTS", f"there is a key {name!r} already; choose another name")
    twin = view.key_by_fingerprint(fingerprint) if fingerprint else None
    if twin is not None:
        raise AlreadyExists("KEY_EXISTS", f"this key pair is registered as {twin.name!r}")


def _announce(
    world: World,
    principal: str,
    approval: CreateKey | str,
    *,
    name: str,
    token: str,
    spec: KeySpec,
    cka_id: bytes,
) -> Callable[[Transaction], Intent]:
    def work(tx: Transaction) -> Intent:
        check_free(tx, name)
        _approved(world, tx, approval)
        fields = {
            "key": name,
            "token": token,
            "scheme": spec.scheme.value,
            "cka_id": cka_id.hex(),
        }
        leaf = tx.append(Entry(Event.KEY_INTENDED, world.clock.now(), principal, fields=fields))
        digest = hashlib.sha256(cka_id).hexdigest()
        intent = Intent(leaf, IntentKind.GENERATE, name, token, digest, IntentState.OPEN)
        tx.put_intent(intent)
        return intent

    return work


def _registered(
    world: World,
    found: FoundKey,
    *,
    name: str,
    token: str,
    scheme: Scheme,
    content: Content,
    origin: Origin,
) -> Key:
    public_keys.check_matches_scheme(found.public_der, scheme)
    return Key(
        name=name,
        token=token,
        cka_id=found.cka_id,
        scheme=scheme,
        public_der=found.public_der,
        content=content,
        # Only metadata gives TUF keys a role, and with it leave to sign more than that metadata.
        state=KeyState.PRE_ACTIVE if content is Content.TUF else KeyState.ACTIVE,
        origin=origin,
        created_at=world.clock.now(),
        rsa_bits=found.rsa_bits if scheme.is_rsa else 0,
    )


def _prove_possession(world: World, key: Key, deadline: Deadline) -> None:
    nonce = _SELF_CHECK + os.urandom(32)
    answer = sign_verified(world, key.token, [(key, nonce)], deadline)[0]
    if isinstance(answer, KeydError):
        raise answer


def _register(
    principal: str,
    key: Key,
    *,
    waived: Sequence[str],
    intent: Intent | None = None,
    request: RequestRecord | None = None,
) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        check_not_officers(tx, key.fingerprint)
        twin = tx.key(key.name) or tx.key_by_fingerprint(key.fingerprint)
        if twin is not None:
            raise AlreadyExists("KEY_EXISTS", f"there is a key {twin.name!r} already")
        if key.content is not Content.TUF and tx.material(key.fingerprint) is not None:
            raise PolicyViolation(
                "KEY_CONTENT_MISMATCH",
                "TUF metadata lists this key pair: it cannot sign other content",
            )
        tx.put_key(key)
        adopted = key.origin is Origin.ADOPTED
        fields: Fields = {
            "key": key.name,
            "key_sha256": key.fingerprint,
            "token": key.token,
            "scheme": key.scheme.value,
            "content": key.content.value,
            "cka_id": key.cka_id.hex(),
            **({"waived": list(waived)} if waived else {}),
        }
        event = Event.KEY_ADOPTED if adopted else Event.KEY_CREATED
        tx.append(Entry(event, key.created_at, principal, fields=fields))
        if intent is not None:
            tx.put_intent(replace(intent, state=IntentState.COMPLETED))
        if request is not None:
            tx.put_request(request)

    return work


def _close(world: World, principal: str, intent: Intent, failure: KeydError) -> None:
    def work(tx: Transaction) -> None:
        tx.put_intent(replace(intent, state=IntentState.ABANDONED))
        fields: Fields = {"intent": intent.leaf, "reason": failure.reason, "key": intent.key}
        tx.append(Entry(Event.INTENT_CLOSED, world.clock.now(), principal, fields=fields))

    world.ledger.transact(work)
