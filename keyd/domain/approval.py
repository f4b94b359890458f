"""What an officer signs: a statement about one proposal, in a DSSE envelope.

The statement names everything that the decision rests on. An approval is dead as soon as any of it
changes: payload, rules, officers, policy.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum

from keyd.domain import canonical, dsse, public_keys
from keyd.domain.dsse import Envelope
from keyd.domain.officers import OfficerKey
from keyd.errors import InvalidRequest, NotAllowed, SelfCheckFailed

PAYLOAD_TYPE = "application/vnd.keyd.approval+json"
_TYPE = "keyd-approval-v1"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Decision(StrEnum):
    """What an officer says of a proposal."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True)
class Basis:
    """What a decision rests on. Digests are SHA-256 in 64 lower-case hex digits.

    `daemon` is the ledger's id, `operation_sha256` of `keyd.domain.operations.encode`,
    `payload_sha256` of the metadata to be signed or "", `expires` the proposal's end.
    """

    daemon: str
    proposal: str
    operation: str
    operation_sha256: str
    payload_sha256: str
    rules_sha256: str
    officers_sha256: str
    policy_revision: str
    expires: str


@dataclass(frozen=True)
class Statement:
    """One officer's decision about one basis."""

    officer: str
    decision: Decision
    basis: Basis

    def encode(self) -> bytes:
        """Canonical JSON: the DSSE payload."""
        head = {"_type": _TYPE, "officer": self.officer, "decision": self.decision.value}
        return canonical.encode({**head, **asdict(self.basis)})

    def to_be_signed(self) -> bytes:
        """The bytes that the officer's key signs: DSSE's pre-authentication encoding."""
        return dsse.pae(PAYLOAD_TYPE, self.encode())


def expiry_text(at: datetime) -> str:
    """A time as statements write it, in whole seconds."""
    return at.astimezone(UTC).strftime(_TIME)


def expiry_time(text: str) -> datetime:
    """The inverse of `expiry_text`. Raises: ValueError."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def sealed(statement: Statement, key: OfficerKey, signature: bytes) -> bytes:
    """The envelope to hand in; `signature` is in the form that TUF stores."""
    return dsse.encode(Envelope(PAYLOAD_TYPE, statement.encode(), key.fingerprint, signature))


def read(envelope: bytes) -> tuple[Statement, Envelope]:
    """The statement in an envelope, not yet verified, and the envelope.

    Raises: InvalidRequest (ENVELOPE_MALFORMED).
    """
    found = dsse.decode(envelope)
    if found.payload_type != PAYLOAD_TYPE:
        raise _malformed(f"its payload type is not {PAYLOAD_TYPE}")
    statement = read_statement(found.payload)
    if dsse.encode(found) != envelope:
        raise _malformed("it is spelled in another way than keyd writes it")
    return statement, found


def read_statement(data: bytes) -> Statement:
    """The inverse of `Statement.encode`. Raises: InvalidRequest (ENVELOPE_MALFORMED)."""
    try:
        document = json.loads(data)
        texts = {name: str(document[name]) for name in document}
        basis = Basis(**{each.name: texts[each.name] for each in fields(Basis)})
        statement = Statement(texts["officer"], Decision(texts["decision"]), basis)
        canonical_form = statement.encode()
    except (InvalidRequest, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _malformed("it holds no approval statement") from error
    if canonical_form != data:
        raise _malformed("its statement is not in canonical form")
    return statement


def check_basis(stated: Basis, current: Basis) -> None:
    """Refuse a statement that is not about the proposal as it stands now.

    Raises: NotAllowed (STATEMENT_FOREIGN_DAEMON, STATEMENT_OTHER_PROPOSAL, STATEMENT_STALE).
    """
    if stated.daemon != current.daemon:
        raise NotAllowed("STATEMENT_FOREIGN_DAEMON", "the approval is meant for another daemon")
    if stated.proposal != current.proposal:
        raise NotAllowed("STATEMENT_OTHER_PROPOSAL", "the approval is for another proposal")
    stale = [f.name for f in fields(Basis) if getattr(stated, f.name) != getattr(current, f.name)]
    if stale:
        raise NotAllowed(
            "STATEMENT_STALE",
            f"the approval rests on another {' and '.join(stale)}: fetch the statement again",
        )


def check_signature(statement: Statement, envelope: Envelope, key: OfficerKey) -> None:
    """Verify an envelope under an officer's key.

    Raises: NotAllowed (APPROVAL_SIGNATURE_INVALID).
    """
    try:
        public_keys.verify(
            key.public_der, key.scheme.value, statement.to_be_signed(), envelope.signature
        )
    except (SelfCheckFailed, InvalidRequest) as error:
        raise NotAllowed(
            "APPROVAL_SIGNATURE_INVALID",
            f"the approval is not signed by the key of {statement.officer!r} that it names",
        ) from error


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest("ENVELOPE_MALFORMED", f"the approval cannot be read: {why}")
