"""What the ledger remembers of proposals and of what officers said to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyd.domain.approval import Basis, Decision, expiry_text
from keyd.domain.quorum import QuorumRule, rules_digest


class ProposalState(StrEnum):
    """OPEN until it is decided; nothing that is decided opens again."""

    OPEN = "OPEN"
    EXECUTED = "EXECUTED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Proposal:
    """One operation that waits for a quorum, and all that approvals of it rest on.

    `operation` are the bytes of `keyd.domain.operations.encode`, `payload` those whose digest it
    names (`keyd.domain.attached`), else b"". `officer` is the proposing person, "" if nobody of the
    officers proposed it. Digests are SHA-256 in 64 lower-case hex digits.
    """

    name: str
    kind: str
    operation: bytes
    operation_sha256: str
    payload: bytes
    payload_sha256: str
    proposer: str
    officer: str
    rules: tuple[QuorumRule, ...]
    officers_sha256: str
    policy_revision: str
    created_at: datetime
    expires_at: datetime
    state: ProposalState
    leaf: int

    def basis(self, daemon: str) -> Basis:
        """What officers put their names to; `daemon` is the ledger's id."""
        return Basis(
            daemon=daemon,
            proposal=self.name,
            operation=self.kind,
            operation_sha256=self.operation_sha256,
            payload_sha256=self.payload_sha256,
            rules_sha256=rules_digest(self.rules),
            officers_sha256=self.officers_sha256,
            policy_revision=self.policy_revision,
            expires=expiry_text(self.expires_at),
        )


@dataclass(frozen=True)
class Approval:
    """One officer's decision with the envelope that proves it."""

    proposal: str
    officer: str
    fingerprint: str
    decision: Decision
    envelope: bytes
    at: datetime
    leaf: int
