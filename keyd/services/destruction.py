"""Destroying a key: first its use in the ledger ends, then its objects on the token.

The state DESTROYED, the announcement and the use of the approval are one transaction: a key that is
half deleted signs nothing. Whatever interrupts the deletion, executing the proposal again goes on.
"""

from __future__ import annotations

from dataclasses import replace

from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Content, Key, KeyState
from keyd.domain.operations import ChangeKeyState
from keyd.domain.records import Intent, IntentKind, IntentState
from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.errors import BackendUnavailable, InvalidRequest, KeydError, NotFound, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Destroys, KeyBackend, Transaction
from keyd.services import effects, quorum
from keyd.services.keys import named
from keyd.services.token_call import Deadline
from keyd.services.world import World


def destroy(
    world: World,
    principal: str,
    proposal: Proposal,
    operation: ChangeKeyState,
    *,
    timeout_s: float,
) -> None:
    """Carry out an approved destruction, or what is left of it.

    Nothing happens, and the approval stands, while the token is away or holds other objects than
    the recorded ones. Raises: ApprovalRequired, PolicyViolation, NotFound, InvalidRequest,
    BackendUnavailable, DeadlineExceeded.
    """
    deadline = Deadline(world.clock, timeout_s)
    key = world.ledger.read(lambda view: named(view, operation.key))
    if key.content is Content.LOG:
        raise InvalidRequest("KEY_RESERVED", "the log key is the daemon's own: it stays")
    backend = world.tokens.get(key.token)
    if not isinstance(backend, Destroys):
        raise InvalidRequest("TOKEN_NOT_CAPABLE", f"token {key.token} cannot delete keys")
    if proposal.state is ProposalState.OPEN:
        _check_objects(backend, key, deadline)
    intent = world.ledger.transact(lambda tx: _begin(world, tx, principal, proposal, operation))
    if intent is None:
        return
    failpoint(Failpoint.KEY_DELETION_ANNOUNCED)
    try:
        objects = backend.destroy(key, deadline.remaining_s())
        failpoint(Failpoint.KEY_OBJECTS_DELETED)
        _check_gone(backend, key, deadline)
    except KeydError as failure:
        _interrupted(world, principal, intent, failure)
        raise
    world.ledger.transact(lambda tx: _complete(world, tx, principal, intent, objects))
    failpoint(Failpoint.KEY_DELETION_RECORDED)


def _begin(
    world: World, tx: Transaction, principal: str, proposal: Proposal, operation: ChangeKeyState
) -> Intent | None:
    """Use the approval up and announce the deletion; None: it was carried out before."""
    known = tx.proposal(proposal.name)
    if known is None or known.state is not ProposalState.EXECUTED:
        quorum.consume(world, tx, proposal.name, principal)
        effects.perform(world, tx, operation, principal)
    key = named(tx, operation.key)
    if key.fingerprint != operation.key_sha256:
        raise PolicyViolation("KEY_CHANGED", f"key {key.name!r} is another by now")
    before = tx.deletion(key.name)
    if before is not None and before.state is IntentState.COMPLETED:
        return None
    if before is not None and before.state is IntentState.OPEN:
        raise PolicyViolation("KEY_DELETION_UNDER_WAY", "its token is being asked: wait a little")
    fields: Fields = {
        "key": key.name,
        "key_sha256": key.fingerprint,
        "token": key.token,
        "cka_id": key.cka_id.hex(),
        "proposal": proposal.name,
    }
    entry = Entry(Event.KEY_DELETION_INTENDED, world.clock.now(), principal, fields=fields)
    intent = Intent(
        leaf=tx.append(entry),
        kind=IntentKind.DESTROY,
        key=key.name,
        subject=key.token,
        digest=key.fingerprint,
        state=IntentState.OPEN,
    )
    tx.put_intent(intent)
    return intent


def _check_objects(backend: KeyBackend, key: Key, deadline: Deadline) -> None:
    """Refuse early what the token's worker would refuse later, with the approval used up."""
    for found in backend.inventory(deadline.remaining_s()):
        if found.cka_id == key.cka_id and found.public_der != key.public_der:
            raise NotFound(
                "KEY_NOT_ON_TOKEN",
                f"token {key.token} has another key pair, or an unreadable one, in the place of "
                f"{key.name!r}: nothing was deleted",
            )


def _check_gone(backend: KeyBackend, key: Key, deadline: Deadline) -> None:
    """Look with a request of its own whether anything is left."""
    if any(found.cka_id == key.cka_id for found in backend.inventory(deadline.remaining_s())):
        raise BackendUnavailable(
            "KEY_OBJECTS_STAY",
            f"token {key.token} still shows objects of {key.name!r}: execute the proposal again",
        )


def _complete(world: World, tx: Transaction, principal: str, intent: Intent, objects: int) -> None:
    tx.put_intent(replace(intent, state=IntentState.COMPLETED))
    fields: Fields = {
        "intent": intent.leaf,
        "key": intent.key,
        "key_sha256": intent.digest,
        "token": intent.subject,
        "objects": objects,
    }
    tx.append(Entry(Event.KEY_DELETED, world.clock.now(), principal, fields=fields))


def _interrupted(world: World, principal: str, intent: Intent, failure: KeydError) -> None:
    def work(tx: Transaction) -> None:
        tx.put_intent(replace(intent, state=IntentState.UNKNOWN))
        fields: Fields = {
            "intent": intent.leaf,
            "key": intent.key,
            "reason": failure.reason,
            "outcome": IntentState.UNKNOWN.value,
        }
        tx.append(Entry(Event.INTENT_CLOSED, world.clock.now(), principal, fields=fields))

    world.ledger.transact(work)


def destroys(operation: object) -> bool:
    """Whether an operation ends in a deletion."""
    return isinstance(operation, ChangeKeyState) and operation.after == KeyState.DESTROYED
