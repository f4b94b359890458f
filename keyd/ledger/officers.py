"""Officers, proposals and approvals: statements, and rows to records and back."""

from __future__ import annotations

import json

from keyd.domain.approval import Decision
from keyd.domain.officers import Officer, officer_of
from keyd.domain.quorum import QuorumRule
from keyd.domain.records_quorum import Approval, Proposal, ProposalState
from keyd.ledger.codec import Row, time_of, time_text

OFFICERS = "SELECT document FROM officers ORDER BY name"
OFFICER_ROWS = "SELECT name, document, leaf FROM officers ORDER BY name"
BASE_RULE_ROW = "SELECT threshold, leaf FROM base_rule"
BASE_RULE = "SELECT threshold FROM base_rule"
PROPOSAL = (
    "SELECT name, kind, operation, operation_sha256, payload, payload_sha256, proposer, officer, "
    "rules, officers_sha256, policy_revision, created_at, expires_at, state, leaf FROM proposals"
)
PROPOSAL_NAMED = f"{PROPOSAL} WHERE name = ?"
PROPOSAL_NAMES = "SELECT name FROM proposals ORDER BY leaf"
PROPOSALS = f"{PROPOSAL} ORDER BY leaf"
PROPOSALS_OF = f"{PROPOSAL} WHERE operation_sha256 = ? ORDER BY leaf"
OPEN_PROPOSALS = f"{PROPOSAL} WHERE state = 'OPEN' ORDER BY leaf"
OPEN_PROPOSALS_OF = f"{PROPOSAL} WHERE operation_sha256 = ? AND state = 'OPEN' ORDER BY leaf"
APPROVALS_OF = (
    "SELECT proposal, officer, fingerprint, decision, envelope, at, leaf FROM approvals "
    "WHERE proposal = ? ORDER BY leaf"
)
PUT_OFFICER = (
    "INSERT INTO officers VALUES (?, ?, ?) ON CONFLICT (name) "
    "DO UPDATE SET document = excluded.document, leaf = excluded.leaf"
)
PUT_BASE_RULE = (
    "INSERT INTO base_rule VALUES (1, ?, ?) ON CONFLICT (one) "
    "DO UPDATE SET threshold = excluded.threshold, leaf = excluded.leaf"
)
PUT_PROPOSAL = (
    "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET state = excluded.state"
)
PUT_APPROVAL = "INSERT INTO approvals VALUES (?, ?, ?, ?, ?, ?, ?)"


def officer_of_row(row: Row) -> Officer:
    """A row in the order of `OFFICERS`."""
    return officer_of(json.loads(row[0]))


def rules_text(rules: tuple[QuorumRule, ...]) -> str:
    """The column `rules`."""
    document = [
        {"name": rule.name, "threshold": rule.threshold, "groups": dict(rule.groups)}
        for rule in rules
    ]
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def proposal_of(row: Row) -> Proposal:
    """A row in the order of `PROPOSAL`."""
    rules = json.loads(row[8])
    return Proposal(
        name=row[0],
        kind=row[1],
        operation=row[2],
        operation_sha256=row[3],
        payload=row[4],
        payload_sha256=row[5],
        proposer=row[6],
        officer=row[7],
        rules=tuple(QuorumRule(r["name"], r["threshold"], r["groups"]) for r in rules),
        officers_sha256=row[9],
        policy_revision=row[10],
        created_at=time_of(row[11]),
        expires_at=time_of(row[12]),
        state=ProposalState(row[13]),
        leaf=row[14],
    )


def proposal_row(proposal: Proposal) -> Row:
    """The columns of the table `proposals`."""
    return (
        proposal.name,
        proposal.kind,
        proposal.operation,
        proposal.operation_sha256,
        proposal.payload,
        proposal.payload_sha256,
        proposal.proposer,
        proposal.officer,
        rules_text(proposal.rules),
        proposal.officers_sha256,
        proposal.policy_revision,
        time_text(proposal.created_at),
        time_text(proposal.expires_at),
        proposal.state.value,
        proposal.leaf,
    )


def approval_of(row: Row) -> Approval:
    """A row in the order of `APPROVALS_OF`."""
    return Approval(
        proposal=row[0],
        officer=row[1],
        fingerprint=row[2],
        decision=Decision(row[3]),
        envelope=row[4],
        at=time_of(row[5]),
        leaf=row[6],
    )


def approval_row(approval: Approval) -> Row:
    """The columns of the table `approvals`."""
    return (
        approval.proposal,
        approval.officer,
        approval.fingerprint,
        approval.decision.value,
        approval.envelope,
        time_text(approval.at),
        approval.leaf,
    )
