"""Officers, proposals and approvals: the rows against what the entries say."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping

from keyd.domain import operations
from keyd.domain.approval import expiry_text
from keyd.domain.audit import Event
from keyd.domain.quorum import rule_text
from keyd.domain.records_quorum import Approval, Proposal
from keyd.ledger.codec import time_text
from keyd.ledger.verification.entries import Fields, differing
from keyd.ledger.verification.officer_story import OfficerStory
from keyd.ledger.verification.report import Report
from keyd.ledger.view import SqliteView


def check_officers(view: SqliteView, entries: Mapping[int, Fields], report: Report) -> None:
    """Compare rows with entries (by index), and decide again what was decided.

    Reads proposals one by one: their payloads may be megabytes each.

    Raises: KeyError, TypeError, ValueError, KeydError for what cannot be read.
    """
    story = OfficerStory(view.identity().ledger_id, report)
    for index in sorted(entries):
        _compare(view, index, entries[index], report)
        story.follow(index, entries[index])
    story.finish()
    _compare_officers(view, story, report)
    names = view.proposal_names()
    for name in names:
        proposal = view.proposal(name)
        if proposal is not None:
            _compare_proposal(view, proposal, story, report)
    for name in story.proposals.keys() - set(names):
        report.flaw(f"proposal {name}", "an entry created it, but it is gone")


def _compare_proposal(
    view: SqliteView, proposal: Proposal, story: OfficerStory, report: Report
) -> None:
    where = f"proposal {proposal.name}"
    told = story.proposals.get(proposal.name)
    if told is None or told.index != proposal.leaf:
        report.flaw(where, f"entry {proposal.leaf} does not create it")
    elif told.basis != proposal.basis(told.basis.daemon):
        report.flaw(where, "approvals of it rest on something else")
    if proposal.state != story.states.get(proposal.name):
        report.flaw(where, f"it is {proposal.state.value}, but the log says otherwise")
    said = {each.officer: each.leaf for each in view.approvals(proposal.name)}
    if said != (told.decided if told is not None else {}):
        report.flaw(where, "its approvals are not those that the log has")


def _compare(view: SqliteView, index: int, entry: Fields, report: Report) -> None:
    """One entry against the row that it owes. Rows that are gone are noted in the end."""
    name = entry.get("proposal", "")
    if entry["event"] == Event.PROPOSAL_CREATED:
        proposal = view.proposal(name)
        wrong = differing(entry, dict(_announced(proposal))) if proposal is not None else ""
        if wrong:
            report.flaw(f"proposal {name}", f"entry {index} differs in {wrong}")
    elif entry["event"] == Event.PROPOSAL_DECIDED:
        found = next((e for e in view.approvals(name) if e.leaf == index), None)
        wrong = differing(entry, _decision(found)) if found is not None else ""
        if wrong:
            where = f"approval of {name} by {entry['officer']}"
            report.flaw(where, f"entry {index} differs in {wrong}")


def _compare_officers(view: SqliteView, story: OfficerStory, report: Report) -> None:
    told = dict(story.documents)
    for name, document, leaf in view.officer_rows():
        if told.pop(name, None) != (document, leaf):
            report.flaw(f"officer {name}", f"entry {leaf} does not say so")
    for name in told:
        report.flaw(f"officer {name}", "an entry tells of them, but they are gone")
    if view.base_rule_row() != story.base:
        report.flaw("base rule", "it is not what the newest entry about it says")


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
    yield "rules", [rule_text(rule) for rule in proposal.rules]
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
