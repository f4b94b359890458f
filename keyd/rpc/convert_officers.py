"""Officers and proposals, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain import operations
from keyd.domain.approval import Decision
from keyd.domain.keys import Scheme
from keyd.domain.officers import (
    Officer,
    OfficerKey,
    OfficerKeyKind,
    OfficerKeyState,
    OfficerSet,
    OfficerState,
)
from keyd.domain.quorum import QuorumRule, Tally
from keyd.domain.records_quorum import Approval, ProposalState
from keyd.rpc.convert import scheme_in, timestamp
from keyd.rpc.fields import Fields
from keyd.services.proposals import Shown
from keyd_protos.v1 import officers_pb2, proposals_pb2

_PUBLIC_MAX = 8192
_PRINCIPAL_MAX = 255
_STATES = {
    state: officers_pb2.OfficerState.Value(f"OFFICER_STATE_{state.value}") for state in OfficerState
}
_KEY_STATES = {
    state: officers_pb2.OfficerKeyState.Value(f"OFFICER_KEY_STATE_{state.value}")
    for state in OfficerKeyState
}
_KINDS = {
    kind: officers_pb2.OfficerKeyKind.Value(f"OFFICER_KEY_KIND_{kind.name}")
    for kind in OfficerKeyKind
}
_PROPOSAL_STATES = {
    state: proposals_pb2.ProposalState.Value(f"PROPOSAL_STATE_{state.value}")
    for state in ProposalState
}
_DECISIONS = {
    decision: proposals_pb2.Decision.Value(f"DECISION_{decision.name}") for decision in Decision
}
_STATES_IN: Mapping[int, OfficerState] = {
    officers_pb2.OFFICER_STATE_UNSPECIFIED: OfficerState.ENROLLED,
    **{number: state for state, number in _STATES.items()},
}
_KEY_STATES_IN: Mapping[int, OfficerKeyState] = {
    officers_pb2.OFFICER_KEY_STATE_UNSPECIFIED: OfficerKeyState.ACTIVE,
    **{number: state for state, number in _KEY_STATES.items()},
}
_KINDS_IN: Mapping[int, OfficerKeyKind] = {number: kind for kind, number in _KINDS.items()}


def officer_in(fields: Fields, pointer: str, officer: officers_pb2.Officer) -> Officer:
    """A person as they are to be."""
    return Officer(
        name=fields.name(f"{pointer}/name", officer.name),
        groups=frozenset(
            fields.name(f"{pointer}/groups/{index}", group)
            for index, group in enumerate(officer.groups)
        ),
        principals=frozenset(
            _principal(fields, f"{pointer}/principals/{index}", principal)
            for index, principal in enumerate(officer.principals)
        ),
        keys=tuple(
            _key_in(fields, f"{pointer}/keys/{index}", key)
            for index, key in enumerate(officer.keys)
        ),
        state=fields.choice(f"{pointer}/state", officer.state, _STATES_IN, OfficerState.ENROLLED),
    )


def _principal(fields: Fields, pointer: str, value: str) -> str:
    if not value or len(value) > _PRINCIPAL_MAX or not value.isprintable():
        message = f"must have 1 to {_PRINCIPAL_MAX} printable characters"
        fields.object_to(pointer, "FIELD_INVALID", message)
    return value


def _key_in(fields: Fields, pointer: str, key: officers_pb2.OfficerKey) -> OfficerKey:
    if not key.scheme:
        fields.object_to(f"{pointer}/scheme", "FIELD_REQUIRED", "must not be empty")
    return OfficerKey(
        scheme=scheme_in(fields, f"{pointer}/scheme", key.scheme) or Scheme.ECDSA_P256,
        public_der=fields.octets(f"{pointer}/public_key", key.public_key, _PUBLIC_MAX),
        kind=fields.choice(f"{pointer}/kind", key.kind, _KINDS_IN, OfficerKeyKind.PKCS11),
        state=fields.choice(f"{pointer}/state", key.state, _KEY_STATES_IN, OfficerKeyState.ACTIVE),
    )


def officers_out(found: OfficerSet) -> list[officers_pb2.Officer]:
    """All officers, by name."""
    return [
        officers_pb2.Officer(
            name=officer.name,
            groups=sorted(officer.groups),
            principals=sorted(officer.principals),
            keys=[_key_out(key) for key in officer.keys],
            state=_STATES[officer.state],
        )
        for officer in found.officers
    ]


def _key_out(key: OfficerKey) -> officers_pb2.OfficerKey:
    return officers_pb2.OfficerKey(
        scheme=key.scheme.value,
        public_key=key.public_der,
        kind=_KINDS[key.kind],
        state=_KEY_STATES[key.state],
        key_sha256=bytes.fromhex(key.fingerprint),
    )


def proposal_out(shown: Shown, *, proofs: bool = True) -> proposals_pb2.Proposal:
    """A proposal as it stands; without `proofs`, approvals lack their envelopes."""
    found, now = shown.proposal, shown.standing
    return proposals_pb2.Proposal(
        name=found.name,
        kind=found.kind,
        operation=found.operation,
        operation_sha256=bytes.fromhex(found.operation_sha256),
        payload_sha256=bytes.fromhex(found.payload_sha256),
        words=operations.decode(found.operation).words(),
        proposer=found.proposer,
        officer=found.officer,
        rules=[_standing_out(tally) for tally in now.tallies],
        approvals=[_approval_out(each, proofs) for each in shown.approvals],
        state=_PROPOSAL_STATES[found.state],
        approved=found.state is ProposalState.OPEN and now.approved,
        expired=found.state is ProposalState.OPEN and now.expired,
        stale=now.stale if found.state is ProposalState.OPEN else "",
        create_time=timestamp(found.created_at),
        expire_time=timestamp(found.expires_at),
        daemon=shown.daemon,
        officers_sha256=bytes.fromhex(found.officers_sha256),
        policy_revision=found.policy_revision,
        log_index=found.leaf,
    )


def _standing_out(tally: Tally) -> proposals_pb2.RuleStanding:
    return proposals_pb2.RuleStanding(
        rule=_rule_out(tally.rule),
        words=tally.rule.words(),
        counted=tally.counted,
        missing=tally.missing,
        missing_groups=tally.missing_groups,
        reachable=tally.reachable,
    )


def _rule_out(rule: QuorumRule) -> proposals_pb2.QuorumRule:
    return proposals_pb2.QuorumRule(name=rule.name, threshold=rule.threshold, groups=rule.groups)


def _approval_out(approval: Approval, proofs: bool) -> proposals_pb2.Approval:
    return proposals_pb2.Approval(
        officer=approval.officer,
        decision=_DECISIONS[approval.decision],
        key_sha256=bytes.fromhex(approval.fingerprint),
        envelope=approval.envelope if proofs else b"",
        record_time=timestamp(approval.at),
    )
