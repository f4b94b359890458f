"""What the log says of officers, and whether they agreed: from its entries alone.

Every envelope is verified again, and every quorum counted again by the officers of that moment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

from keyd.domain import approval, operations
from keyd.domain.approval import Basis, Decision
from keyd.domain.attached import attached_digest
from keyd.domain.audit import Event
from keyd.domain.keys import KeyState
from keyd.domain.officers import OfficerSet, officer_of
from keyd.domain.operations import (
    ChangeKeyState,
    ChangeOfficer,
    Operation,
    SetBaseRule,
    SignMetadata,
    StartRotation,
    SucceedOfficer,
    UseCompromisedKey,
    VoidReservation,
    officer_text,
)
from keyd.domain.quorum import BASE, QuorumRule, rule_of_text, rules_digest, tally
from keyd.domain.records_quorum import ProposalState
from keyd.errors import KeydError
from keyd.ledger.codec import time_of
from keyd.ledger.verification.entries import Fields, differing
from keyd.ledger.verification.report import Report

EVENTS = frozenset(
    {
        Event.OFFICER_CHANGED,
        Event.BASE_RULE_SET,
        Event.PROPOSAL_CREATED,
        Event.PROPOSAL_DECIDED,
        Event.PROPOSAL_ENDED,
        Event.KEY_STATE_CHANGED,
        Event.RESERVATION_VOIDED,
        Event.ROTATION_STARTED,
        Event.REPOSITORY_BOOTSTRAPPED,
        Event.REPOSITORY_REGISTERED,
    }
)
# What stands in the entries after the end of its proposal.
_EFFECTIVE = (ChangeOfficer, SetBaseRule, VoidReservation)
_VERSION = ("repository", "role", "epoch", "version", "payload_sha256")
_EXEMPTION = ("repository", "key", "key_sha256", "payload_sha256")
_BINDING = frozenset({Event.SIGNATURE_INTENDED, Event.VERSION_RESERVED})


def concerns_officers(entry: Fields) -> bool:
    """Whether the story has to hear of an entry. The log does not have the policy's rules, so of
    what is signed it can only tell that roots need officers."""
    event = entry.get("event")
    return event in EVENTS or (event in _BINDING and entry.get("role") == "root")


@dataclass(frozen=True)
class Proposed:
    """A proposal as the entry that created it tells it, and all that was decided since."""

    index: int
    basis: Basis
    operation: Operation
    officer: str
    rules: tuple[QuorumRule, ...]
    votes: dict[str, Decision] = field(default_factory=dict)
    # Which entries decided, whether or not their envelopes hold.
    decided: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _KeyChange:
    """A key's change of state, as the log tells it: without the key's fingerprint."""

    key: str
    before: str
    after: str

    @property
    def needs_officers(self) -> bool:
        restored = (self.before, self.after) == (KeyState.DEACTIVATED, KeyState.ACTIVE)
        return restored or self.after == KeyState.DESTROYED


@dataclass(frozen=True)
class _Awaited:
    """An executed proposal, and the effects that have yet to stand in the entries from `index`."""

    index: int
    proposal: Proposed
    effects: tuple[Operation, ...]


def _effects(operation: Operation) -> tuple[Operation, ...]:
    if isinstance(operation, SucceedOfficer):
        return operation.changes
    return (operation,) if isinstance(operation, _EFFECTIVE) else ()


def _allowance(operation: Operation) -> Operation | _KeyChange:
    if isinstance(operation, ChangeKeyState):
        return _KeyChange(operation.key, operation.before, operation.after)
    return operation


class OfficerStory:
    """Takes the entries that concern officers in their order, and notes what cannot have happened.

    `daemon` is the ledger's id, to which all approvals are bound.
    """

    def __init__(self, daemon: str, report: Report) -> None:
        self._daemon = daemon
        self._report = report
        self.officers = OfficerSet()
        self.documents: dict[str, tuple[str, int]] = {}
        self.base: tuple[int, int] | None = None
        self.proposals: dict[str, Proposed] = {}
        self.states: dict[str, str] = {}
        self._awaited: _Awaited | None = None
        # Uses of an approval stand on either side of its end: they are counted.
        self._allowed: Counter[Operation | _KeyChange] = Counter()
        self._used: list[tuple[int, Operation | _KeyChange]] = []
        self._compromised: set[object] = set()
        self._production: set[object] = set()

    def follow(self, index: int, entry: Fields) -> None:
        """Raises: KeyError, TypeError, ValueError, KeydError for what cannot be read."""
        match entry["event"]:
            case Event.OFFICER_CHANGED:
                self._officer(index, entry)
            case Event.BASE_RULE_SET:
                self._demand(index, SetBaseRule(entry["threshold"]))
                self.base = (entry["threshold"], index)
            case Event.PROPOSAL_CREATED:
                self._created(index, entry)
            case Event.PROPOSAL_DECIDED:
                self._decided(index, entry)
            case Event.PROPOSAL_ENDED:
                self._ended(index, entry)
            case _:
                self._used_approval(index, entry)

    def _used_approval(self, index: int, entry: Fields) -> None:
        match entry["event"]:
            case Event.RESERVATION_VOIDED:
                self._demand(
                    index, VoidReservation(*(entry[name] for name in (*_VERSION, "elsewhere")))
                )
            case Event.ROTATION_STARTED:
                self._use(index, StartRotation(entry["repository"], entry["plan_sha256"]))
            case Event.KEY_STATE_CHANGED:
                self._key_changed(index, _KeyChange(entry["key"], entry["from"], entry["to"]))
            case Event.REPOSITORY_BOOTSTRAPPED | Event.REPOSITORY_REGISTERED:
                if entry.get("development") is not True:
                    self._production.add(entry["repository"])
            case _:
                self._bound(index, entry)

    def finish(self) -> None:
        """Note what was done without the officers who had to be asked."""
        for index, operation in self._used:
            if self._allowed[operation] < 1:
                self._report.flaw(f"entry {index}", "no proposal that officers approved allows it")
            self._allowed[operation] -= 1
        self._check_recorded()

    def _key_changed(self, index: int, change: _KeyChange) -> None:
        if change.needs_officers:
            self._use(index, change)
        if change.after == KeyState.COMPROMISED:
            self._compromised.add(change.key)

    def _bound(self, index: int, entry: Fields) -> None:
        """A root version of a production repository got its payload, or one more signature."""
        if entry["repository"] in self._production and not entry.get("added"):
            self._use(index, SignMetadata(*(entry[name] for name in _VERSION)))
        if entry.get("key") in self._compromised:
            allowed = UseCompromisedKey(*(entry[name] for name in _EXEMPTION))
            if not self._allowed[allowed]:
                self._report.flaw(f"entry {index}", "a compromised key was used without officers")

    def _use(self, index: int, operation: Operation | _KeyChange) -> None:
        if self.base is not None:
            self._used.append((index, operation))

    def _officer(self, index: int, entry: Fields) -> None:
        person = officer_of(json.loads(entry["document"]))
        known = self.officers.get(person.name)
        if person.name != entry["officer"] or officer_text(person) != entry["document"]:
            self._report.flaw(f"entry {index}", "it is about two officers")
        self._demand(index, ChangeOfficer.to(person, known))
        self.officers = self.officers.with_officer(person)
        self.documents[entry["officer"]] = (entry["document"], index)

    def _demand(self, index: int, operation: Operation) -> None:
        """What officers have to agree to, once there are any, follows its executed proposal."""
        if self.base is None and not isinstance(operation, VoidReservation):
            return
        awaited, self._awaited = self._awaited, None
        if awaited is None or awaited.index != index or awaited.effects[0] != operation:
            self._report.flaw(f"entry {index}", "no proposal that officers approved allows it")
            return
        if not any(rule.name == BASE for rule in awaited.proposal.rules):
            self._report.flaw(f"entry {index}", "it was allowed without the officers' own rule")
        if len(awaited.effects) > 1:
            self._awaited = _Awaited(index + 1, awaited.proposal, awaited.effects[1:])

    def _check_recorded(self) -> None:
        """No executed proposal is without its effect."""
        if self._awaited is not None:
            where = f"proposal {self._awaited.proposal.basis.proposal}"
            self._report.flaw(where, "it was executed, but what it allows was not recorded")

    def _created(self, index: int, entry: Fields) -> None:
        where, name = f"entry {index}", entry["proposal"]
        raw = entry["operation"].encode()
        operation = operations.decode(raw)
        rules = tuple(rule_of_text(text) for text in entry["rules"])
        basis = Basis(
            daemon=self._daemon,
            proposal=name,
            operation=entry["kind"],
            operation_sha256=hashlib.sha256(raw).hexdigest(),
            payload_sha256=entry["payload_sha256"],
            rules_sha256=rules_digest(rules),
            officers_sha256=entry["officers_sha256"],
            policy_revision=entry["policy_revision"],
            expires=entry["expires"],
        )
        approval.expiry_time(basis.expires)
        if name in self.proposals:
            self._report.flaw(where, f"it creates {name} once more")
        self.proposals[name] = Proposed(index, basis, operation, entry["officer"], rules)
        self.states[name] = ProposalState.OPEN.value
        proposer = self.officers.called(entry["principal"])
        expected = {
            "kind": operation.kind,
            "officer": proposer.name if proposer else "",
        }
        # Plans and policies were not kept beside their digests from the beginning.
        if entry["payload_sha256"] or isinstance(operation, SignMetadata):
            expected["payload_sha256"] = attached_digest(operation)
        if wrong := differing(entry, expected):
            self._report.flaw(where, f"it differs in {wrong} from what it follows from")
        if basis.officers_sha256 != self.officers.digest:
            self._report.flaw(where, "it rests on other officers than there were")

    def _decided(self, index: int, entry: Fields) -> None:
        name, officer = entry["proposal"], entry["officer"]
        where = f"approval of {name} by {officer}"
        proposal = self.proposals.get(name)
        if proposal is None or self.states[name] != ProposalState.OPEN:
            self._report.flaw(where, f"entry {index} decides what was not open")
            return
        if officer in proposal.decided:
            self._report.flaw(where, f"entry {index} decides it once more")
            return
        proposal.decided[officer] = index
        if time_of(entry["time"]) >= approval.expiry_time(proposal.basis.expires):
            self._report.flaw(where, "it was decided after its end")
        try:
            proposal.votes[officer] = self._vote(proposal, entry)
        except (KeydError, binascii.Error) as error:
            what = error.message if isinstance(error, KeydError) else "its envelope is no base64"
            self._report.flaw(where, what)
        except LookupError as error:
            self._report.flaw(where, str(error.args[0]))

    def _vote(self, proposal: Proposed, entry: Fields) -> Decision:
        """What the officer's own signature says. Raises: KeydError, LookupError, binascii.Error."""
        content = base64.b64decode(entry["envelope"], validate=True)
        statement, envelope = approval.read(content)
        person = self.officers.get(entry["officer"])
        key = person.active_key(entry["key_sha256"]) if person is not None else None
        if key is None or key.fingerprint != envelope.keyid:
            raise LookupError("the officer had no such key")
        approval.check_signature(statement, envelope, key)
        approval.check_basis(statement.basis, proposal.basis)
        if (statement.officer, statement.decision) != (entry["officer"], entry["decision"]):
            raise LookupError("the signed statement says otherwise")
        return statement.decision

    def _ended(self, index: int, entry: Fields) -> None:
        name, state = entry["proposal"], ProposalState(entry["state"])
        where = f"proposal {name}"
        proposal = self.proposals.get(name)
        if proposal is None or self.states[name] != ProposalState.OPEN:
            self._report.flaw(where, f"entry {index} ends what was not open")
            return
        self.states[name] = state.value
        if state is not ProposalState.EXECUTED:
            return
        self._check_recorded()
        effects = _effects(proposal.operation)
        self._awaited = _Awaited(index + 1, proposal, effects) if effects else None
        self._allowed[_allowance(proposal.operation)] += 1
        if proposal.basis.officers_sha256 != self.officers.digest:
            self._report.flaw(where, "it was executed although the officers had changed")
        if time_of(entry["time"]) >= approval.expiry_time(proposal.basis.expires):
            self._report.flaw(where, "it was executed after its end")
        if any(rule.name == BASE and rule.threshold != self._threshold for rule in proposal.rules):
            self._report.flaw(where, "it was executed by another base rule than there was")
        if not self._satisfied(proposal):
            self._report.flaw(where, "it was executed without the approvals that it needs")

    @property
    def _threshold(self) -> int:
        return self.base[0] if self.base is not None else 0

    def _satisfied(self, proposal: Proposed) -> bool:
        said = proposal.votes
        return bool(proposal.rules) and all(
            tally(
                rule,
                self.officers,
                approved=[name for name in said if said[name] is Decision.APPROVE],
                rejected=[name for name in said if said[name] is Decision.REJECT],
                excluded={proposal.officer, *operations.concerned(proposal.operation)},
            ).satisfied
            for rule in proposal.rules
        )
