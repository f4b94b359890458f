"""Operations that wait for officers: proposed, decided one by one, executed or given up."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import timedelta

from keyd.domain import approval, operations
from keyd.domain.approval import Decision
from keyd.domain.attached import attached_digest
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Content
from keyd.domain.operations import (
    ChangeKeyState,
    CreateKey,
    Operation,
    SignOpaque,
    VoidReservation,
)
from keyd.domain.policy import Action, Caller
from keyd.domain.quorum import rule_text
from keyd.domain.records_quorum import Approval, Proposal, ProposalState
from keyd.errors import (
    AlreadyExists,
    ApprovalRequired,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PolicyViolation,
)
from keyd.ports import Transaction, View
from keyd.services import effects, key_creation, quorum
from keyd.services.attachments import check_attached, trusted_by
from keyd.services.authorize import demand, denial
from keyd.services.destruction import destroy, destroys
from keyd.services.keys import named as key_named
from keyd.services.paging import Page, paged
from keyd.services.proposal_room import make_room
from keyd.services.quorum import Standing
from keyd.services.world import World

_SERVICE = "ProposalService"
MAX_LIFETIME_S = 30 * 86_400


@dataclass(frozen=True)
class Shown:
    """A proposal with what was said to it and where it stands; `daemon` is the ledger's id.

    `trusted` is what holds now in place of the payload, for a diff; b"" if there is nothing.
    """

    daemon: str
    proposal: Proposal
    approvals: tuple[Approval, ...]
    standing: Standing
    trusted: bytes


def create(
    world: World, caller: Caller, operation: Operation, payload: bytes, lifetime_s: int
) -> Shown:
    """Propose an operation, or return the open proposal of the same one.

    Raises: NotAllowed, InvalidRequest, PolicyViolation (NO_QUORUM_NEEDED, QUORUM_UNREACHABLE),
    ApprovalRequired (QUORUM_UNAVAILABLE), Exhausted.
    """
    demand(world, caller, operations.proposal_action(f"{_SERVICE}.CreateProposal", operation))
    if not 60 <= lifetime_s <= MAX_LIFETIME_S:
        raise InvalidRequest(
            "LIFETIME_INVALID", f"a proposal lives between 60 and {MAX_LIFETIME_S} seconds"
        )

    def work(tx: Transaction) -> Shown:
        found = _standing_one(world, tx, operation)
        # To find what is open nobody needs the bytes that it holds.
        if found is None or payload or not attached_digest(operation):
            _check_payload(tx, operation, payload)
        if found is not None:
            return found
        wish = _Wish(caller.principal, operation, payload, timedelta(seconds=lifetime_s))
        proposal = _proposal(world, tx, wish)
        tx.put_proposal(proposal)
        return _shown(world, tx, proposal)

    return world.ledger.transact(work)


def list_proposals(
    world: World, caller: Caller, *, all_states: bool, page_size: int, page_token: str
) -> Page[Shown]:
    """Open proposals, or all that ever were, by name: those that the caller's grants cover."""
    method = f"{_SERVICE}.ListProposals"
    demand(world, caller, Action(method))

    def covered(proposal: Proposal) -> bool:
        return denial(world, caller, _touching(method, proposal)) is None

    def work(view: View) -> Page[Shown]:
        found = view.proposals() if all_states else view.open_proposals()
        page = paged(
            [*filter(covered, found)], lambda proposal: proposal.name, page_size, page_token
        )
        return Page(tuple(_shown(world, view, each) for each in page.items), page.next_token)

    return world.ledger.read(work)


def get(world: World, caller: Caller, name: str) -> Shown:
    """One proposal. Raises: NotFound, NotAllowed."""
    _authorised(world, caller, "GetProposal", name)
    return world.ledger.read(lambda view: _shown(world, view, named(view, name)))


def decide(world: World, caller: Caller, name: str, envelope: bytes) -> Shown:
    """Record one officer's approval or rejection, as their signed statement says.

    Who hands the statement in does not matter: the signature does. Raises: NotAllowed,
    InvalidRequest (ENVELOPE_MALFORMED), NotFound, AlreadyExists (APPROVAL_REPEATED).
    """
    _authorised(world, caller, "DecideProposal", name)
    statement, signed = approval.read(envelope)

    def work(tx: Transaction) -> Shown:
        proposal = _open(world, tx, name)
        approval.check_basis(statement.basis, proposal.basis(tx.identity().ledger_id))
        _check_voter(tx, proposal, statement.officer)
        officer = tx.officers().get(statement.officer)
        key = officer.active_key(signed.keyid) if officer is not None else None
        if key is None:
            raise NotAllowed(
                "OFFICER_KEY_UNKNOWN",
                f"the approval is signed by no key that {statement.officer!r} approves with",
            )
        approval.check_signature(statement, signed, key)
        fields: Fields = {
            "proposal": name,
            "officer": statement.officer,
            "decision": statement.decision.value,
            "key_sha256": key.fingerprint,
            "envelope": base64.b64encode(envelope).decode(),
        }
        entry = Entry(Event.PROPOSAL_DECIDED, world.clock.now(), caller.principal, fields=fields)
        tx.put_approval(
            Approval(
                proposal=name,
                officer=statement.officer,
                fingerprint=key.fingerprint,
                decision=statement.decision,
                envelope=envelope,
                at=entry.at,
                leaf=tx.append(entry),
            )
        )
        if statement.decision is Decision.REJECT and quorum.standing(world, tx, proposal).hopeless:
            proposal = quorum.end(world, tx, proposal, ProposalState.REJECTED, caller.principal)
        return _shown(world, tx, proposal)

    return world.ledger.transact(work)


def execute(world: World, caller: Caller, name: str, *, timeout_s: float) -> Shown:
    """Do what an approved proposal says; its approval is used up in the same transaction.

    A destruction that was interrupted goes on when it is executed again; a key's creation that was
    begins anew, with the approval that still stands.
    Raises: NotFound, NotAllowed, ApprovalRequired (APPROVAL_REQUIRED), PolicyViolation,
    InvalidRequest, BackendUnavailable, DeadlineExceeded.
    """
    found = _authorised(world, caller, "ExecuteProposal", name)
    operation = operations.decode(found.operation)
    if isinstance(operation, ChangeKeyState) and destroys(operation):
        destroy(world, caller.principal, found, operation, timeout_s=timeout_s)
        return world.ledger.read(lambda view: _shown(world, view, named(view, name)))
    if isinstance(operation, CreateKey):
        principal = caller.principal
        key_creation.carry_out(world, principal, operation, proposal=name, timeout_s=timeout_s)
        return world.ledger.read(lambda view: _shown(world, view, named(view, name)))

    def work(tx: Transaction) -> Shown:
        quorum.consume(world, tx, name, caller.principal)
        effects.perform(world, tx, operation, caller.principal)
        return _shown(world, tx, named(tx, name))

    return world.ledger.transact(work)


def cancel(world: World, caller: Caller, name: str) -> Shown:
    """Take a proposal back. Raises: NotFound, NotAllowed (NOT_YOUR_PROPOSAL)."""
    _authorised(world, caller, "CancelProposal", name)

    def work(tx: Transaction) -> Shown:
        proposal = named(tx, name)
        if proposal.proposer != caller.principal and not caller.local_admin:
            raise NotAllowed(
                "NOT_YOUR_PROPOSAL", f"{name} is {proposal.proposer}'s: they can take it back"
            )
        if proposal.state is ProposalState.OPEN:
            proposal = quorum.end(world, tx, proposal, ProposalState.CANCELLED, caller.principal)
        return _shown(world, tx, proposal)

    return world.ledger.transact(work)


def _authorised(world: World, caller: Caller, method: str, name: str) -> Proposal:
    full = f"{_SERVICE}.{method}"
    found = world.ledger.read(lambda view: view.proposal(name))
    # Of what is not there, too, so that strangers do not learn which proposals exist.
    demand(world, caller, _touching(full, found) if found else Action(full))
    return found or world.ledger.read(lambda view: named(view, name))


def _touching(method: str, proposal: Proposal) -> Action:
    return operations.proposal_action(method, operations.decode(proposal.operation))


def named(view: View, name: str) -> Proposal:
    """A proposal by name. Raises: NotFound."""
    found = view.proposal(name)
    if found is None:
        raise NotFound(
            "PROPOSAL_UNKNOWN", f"there is no proposal {name!r}: keyd proposal list --all lists all"
        )
    return found


def _open(world: World, view: View, name: str) -> Proposal:
    proposal = named(view, name)
    if proposal.state is not ProposalState.OPEN:
        raise PolicyViolation("PROPOSAL_DECIDED", f"proposal {name} is {proposal.state.value}")
    now = quorum.standing(world, view, proposal)
    if now.expired or now.stale:
        raise ApprovalRequired("PROPOSAL_STALE", quorum.why_not(proposal, now))
    return proposal


def _check_voter(view: View, proposal: Proposal, officer: str) -> None:
    if officer == proposal.officer:
        raise NotAllowed(
            "PROPOSER_CANNOT_APPROVE", f"{officer!r} proposed it: others have to agree"
        )
    if officer in quorum.excluded_from(proposal):
        raise NotAllowed("OFFICER_CONCERNED", f"{proposal.name} is about {officer!r}")
    if any(each.officer == officer for each in view.approvals(proposal.name)):
        raise AlreadyExists("APPROVAL_REPEATED", f"{officer!r} has decided {proposal.name} already")


def _check_payload(view: View, operation: Operation, payload: bytes) -> None:
    """Officers are not asked about what cannot be done, or without what they have to see."""
    _check_key(view, operation)
    if isinstance(operation, VoidReservation):
        effects.voidable(view, operation)
    check_attached(view, operation, payload)


def _check_key(view: View, operation: Operation) -> None:
    """Officers are not asked about what the key, or its name, forbids already."""
    if isinstance(operation, ChangeKeyState):
        effects.changeable(view, operation)
    if isinstance(operation, CreateKey):
        key_creation.wanted(operation)
        key_creation.check_free(view, operation.key)
    if isinstance(operation, SignOpaque):
        key = key_named(view, operation.key)
        if key.fingerprint != operation.key_sha256:
            raise NotAllowed("KEY_MISMATCH", f"{key.name!r} is another key pair than is meant")
        if key.content is not Content.OPAQUE:
            raise NotAllowed(
                "KEY_CONTENT_MISMATCH", f"key {key.name!r} was not made for opaque content"
            )


def _standing_one(world: World, view: View, operation: Operation) -> Shown | None:
    """The open proposal of the same operation that can still be decided, if there is one."""
    for known in view.open_proposals(operations.digest(operation)):
        found = _shown(world, view, known)
        if not (found.standing.expired or found.standing.stale):
            return found
    return None


@dataclass(frozen=True)
class _Wish:
    principal: str
    operation: Operation
    payload: bytes
    lifetime: timedelta


def _proposal(world: World, tx: Transaction, wish: _Wish) -> Proposal:
    operation, officers = wish.operation, tx.officers()
    rules = quorum.demanded(world, tx, operation)
    if not rules:
        raise PolicyViolation(
            "NO_QUORUM_NEEDED", f"to {operation.words()} needs no officers: do it directly"
        )
    quorum.check_available(tx, operation)
    make_room(world, tx, wish.principal, len(wish.payload))
    proposer = officers.called(wish.principal)
    excluded = {*operations.concerned(operation), *([proposer.name] if proposer else [])}
    quorum.check_reachable(rules, tx, excluded)
    now = world.clock.now().replace(microsecond=0)
    proposal = Proposal(
        name=_new_name(),
        kind=operation.kind,
        operation=operations.encode(operation),
        operation_sha256=operations.digest(operation),
        payload=wish.payload,
        payload_sha256=attached_digest(operation),
        proposer=wish.principal,
        officer=proposer.name if proposer else "",
        rules=rules,
        officers_sha256=officers.digest,
        policy_revision=world.policy.current().revision,
        created_at=now,
        expires_at=now + wish.lifetime,
        state=ProposalState.OPEN,
        leaf=tx.log_size(),
    )
    fields: Fields = {
        "proposal": proposal.name,
        "kind": proposal.kind,
        "operation": proposal.operation.decode(),
        "payload_sha256": proposal.payload_sha256,
        "officer": proposal.officer,
        "rules": [rule_text(rule) for rule in rules],
        "officers_sha256": proposal.officers_sha256,
        "policy_revision": proposal.policy_revision,
        "expires": approval.expiry_text(proposal.expires_at),
    }
    tx.append(Entry(Event.PROPOSAL_CREATED, now, wish.principal, fields=fields))
    return proposal


def _new_name() -> str:
    """ "p-" and 128 random bits in base 32: an approval can be about one proposal only."""
    return "p-" + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def _shown(world: World, view: View, proposal: Proposal) -> Shown:
    return Shown(
        daemon=view.identity().ledger_id,
        proposal=proposal,
        approvals=view.approvals(proposal.name),
        standing=quorum.standing(world, view, proposal),
        trusted=trusted_by(view, proposal),
    )
