"""Officers, proposals and approvals: recomputed from the entries, every decision counted again."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from keyd.domain import approval, operations
from keyd.domain.approval import Decision, expiry_text
from keyd.domain.audit import Event
from keyd.domain.officers import OfficerSet, officer_of
from keyd.domain.quorum import tally
from keyd.domain.records_quorum import Approval, Proposal, ProposalState
from keyd.errors import KeydError
from keyd.ledger.codec import time_text
from keyd.ledger.verification.entries import Fields, differing
from keyd.ledger.verification.report import Report
from keyd.ledger.view import SqliteView

EVENTS = frozenset(
    {
        Event.OFFICER_CHANGED,
        Event.BASE_RULE_SET,
        Event.PROPOSAL_CREATED,
        Event.PROPOSAL_DECIDED,
        Event.PROPOSAL_ENDED,
        Event.RESERVATION_VOIDED,
    }
)


@dataclass
class _Story:
    """What the entries say so far."""

    officers: OfficerSet = field(default_factory=OfficerSet)
    documents: dict[str, tuple[str, int]] = field(default_factory=dict)
    base: tuple[int, int] | None = None
    created: dict[str, int] = field(default_factory=dict)
    decided: dict[str, dict[str, int]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


def check_officers(view: SqliteView, entries: Mapping[int, Fields], report: Report) -> None:
    """Compare rows with entries (by index), and decide again what was decided.

    Raises: KeyError, TypeError, ValueError, KeydError for what cannot be read.
    """
    proposals = {proposal.name: proposal for proposal in view.proposals()}
    story = _Story()
    for index in sorted(entries):
        _Check(view, report, proposals, story).follow(index, entries[index])
    _compare_officers(view, story, report)
    for proposal in proposals.values():
        where = f"proposal {proposal.name}"
        if story.created.get(proposal.name) != proposal.leaf:
            report.flaw(where, f"entry {proposal.leaf} does not create it")
        if proposal.state != story.states.get(proposal.name):
            report.flaw(where, f"it is {proposal.state.value}, but the log says otherwise")
        said = {each.officer: each.leaf for each in view.approvals(proposal.name)}
        if said != story.decided.get(proposal.name, {}):
            report.flaw(where, "its approvals are not those that the log has")
    for name in story.created.keys() - proposals.keys():
        report.flaw(f"proposal {name}", "an entry created it, but it is gone")


def _compare_officers(view: SqliteView, story: _Story, report: Report) -> None:
    for name, document, leaf in view.officer_rows():
        if story.documents.pop(name, None) != (document, leaf):
            report.flaw(f"officer {name}", f"entry {leaf} does not say so")
    for name in story.documents:
        report.flaw(f"officer {name}", "an entry tells of them, but they are gone")
    if view.base_rule_row() != story.base:
        report.flaw("base rule", "it is not what the newest entry about it says")


class _Check:
    """One entry against the rows, and against all entries before it."""

    def __init__(
        self,
        view: SqliteView,
        report: Report,
        proposals: Mapping[str, Proposal],
        story: _Story,
    ) -> None:
        self._view = view
        self._report = report
        self._proposals = proposals
        self._story = story

    def follow(self, index: int, entry: Fields) -> None:
        match entry["event"]:
            case Event.OFFICER_CHANGED:
                person = officer_of(json.loads(entry["document"]))
                self._story.officers = self._story.officers.with_officer(person)
                self._story.documents[entry["officer"]] = (entry["document"], index)
                if person.name != entry["officer"]:
                    self._report.flaw(f"entry {index}", "it is about two officers")
            case Event.BASE_RULE_SET:
                self._story.base = (entry["threshold"], index)
            case Event.PROPOSAL_CREATED:
                self._created(index, entry)
            case Event.PROPOSAL_DECIDED:
                self._decided(index, entry)
            case Event.PROPOSAL_ENDED:
                self._ended(index, entry)

    def _created(self, index: int, entry: Fields) -> None:
        name = entry["proposal"]
        self._story.created[name] = index
        self._story.states[name] = ProposalState.OPEN.value
        proposal = self._proposals.get(name)
        if proposal is not None and (wrong := differing(entry, dict(_announced(proposal)))):
            self._report.flaw(f"proposal {name}", f"entry {index} differs in {wrong}")
        if entry["officers_sha256"] != self._story.officers.digest:
            self._report.flaw(f"entry {index}", "it rests on other officers than there were")

    def _decided(self, index: int, entry: Fields) -> None:
        name, officer = entry["proposal"], entry["officer"]
        where = f"approval of {name} by {officer}"
        self._story.decided.setdefault(name, {})[officer] = index
        proposal = self._proposals.get(name)
        found = self._approval(name, officer)
        if proposal is None or found is None:
            self._report.flaw(where, "an entry tells of it, but it is gone")
            return
        if wrong := differing(entry, _decision(found)):
            self._report.flaw(where, f"entry {index} differs in {wrong}")
        try:
            statement, envelope = approval.read(found.envelope)
            person = self._story.officers.get(officer)
            key = person.active_key(found.fingerprint) if person is not None else None
            if key is None or key.fingerprint != envelope.keyid:
                self._report.flaw(where, "the officer had no such key")
                return
            approval.check_signature(statement, envelope, key)
            approval.check_basis(statement.basis, proposal.basis(self._view.identity().ledger_id))
        except KeydError as error:
            self._report.flaw(where, error.message)
            return
        if (statement.officer, statement.decision) != (officer, found.decision):
            self._report.flaw(where, "the signed statement says otherwise")

    def _ended(self, index: int, entry: Fields) -> None:
        name, state = entry["proposal"], entry["state"]
        where = f"proposal {name}"
        if self._story.states.get(name) != ProposalState.OPEN:
            self._report.flaw(where, f"entry {index} ends what was not open")
        self._story.states[name] = state
        proposal = self._proposals.get(name)
        if state == ProposalState.EXECUTED and proposal is not None:
            if proposal.officers_sha256 != self._story.officers.digest:
                self._report.flaw(where, "it was executed although the officers had changed")
            if entry["time"] >= time_text(proposal.expires_at):
                self._report.flaw(where, "it was executed after its end")
            if not self._satisfied(proposal):
                self._report.flaw(where, "it was executed without the approvals that it needs")

    def _satisfied(self, proposal: Proposal) -> bool:
        counted = self._story.decided.get(proposal.name, {})
        said = [e for e in self._view.approvals(proposal.name) if counted.get(e.officer) == e.leaf]
        concerned = operations.concerned(operations.decode(proposal.operation))
        return bool(proposal.rules) and all(
            tally(
                rule,
                self._story.officers,
                approved=[e.officer for e in said if e.decision is Decision.APPROVE],
                rejected=[e.officer for e in said if e.decision is Decision.REJECT],
                excluded={proposal.officer, *concerned},
            ).satisfied
            for rule in proposal.rules
        )

    def _approval(self, proposal: str, officer: str) -> Approval | None:
        said = self._view.approvals(proposal)
        return next((each for each in said if each.officer == officer), None)


def _announced(proposal: Proposal) -> Iterator[tuple[str, object]]:
    """The members of the entry that created a proposal, and what its digests have to be."""
    yield "proposal", proposal.name
    kind = operations.decode(proposal.operation).kind
    yield "kind", kind if kind == proposal.kind else None
    yield "operation", proposal.operation.decode()
    digest = hashlib.sha256(proposal.operation).hexdigest()
    yield "operation_sha256", None if digest == proposal.operation_sha256 else digest
    digest = hashlib.sha256(proposal.payload).hexdigest() if proposal.payload else ""
    yield "payload_sha256", digest if digest == proposal.payload_sha256 else None
    yield "officer", proposal.officer
    yield "principal", proposal.proposer
    yield "rules", [f"{rule.name}: {rule.words()}" for rule in proposal.rules]
    yield "officers_sha256", proposal.officers_sha256
    yield "policy_revision", proposal.policy_revision
    yield "time", time_text(proposal.created_at)
    whole = proposal.expires_at.microsecond == 0
    yield "expires", expiry_text(proposal.expires_at) if whole else None


def _decision(found: Approval) -> Mapping[str, object]:
    return {
        "proposal": found.proposal,
        "officer": found.officer,
        "decision": found.decision.value,
        "key_sha256": found.fingerprint,
        "envelope": base64.b64encode(found.envelope).decode(),
        "time": time_text(found.at),
    }
