"""What needs officers, and whether they have agreed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from keyd.domain import operations
from keyd.domain.approval import Decision
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Key, KeyState
from keyd.domain.operations import (
    AcceptPolicy,
    ChangeKeyState,
    ChangeOfficer,
    Operation,
    SetBaseRule,
    SetRoleRules,
    SignMetadata,
    StartRotation,
    SucceedOfficer,
    UseCompromisedKey,
    VoidReservation,
)
from keyd.domain.payload import Payload
from keyd.domain.policy import Action, Caller
from keyd.domain.quorum import BASE, QuorumRule, Tally, tally, unreachable
from keyd.domain.records import Reservation, Role
from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.errors import ApprovalRequired, PolicyViolation
from keyd.ports import Transaction, View
from keyd.services.world import World

# What loosens anything, or cannot be undone.
_ALWAYS = (
    AcceptPolicy,
    ChangeOfficer,
    SetBaseRule,
    SetRoleRules,
    StartRotation,
    SucceedOfficer,
    UseCompromisedKey,
    VoidReservation,
)


@dataclass(frozen=True)
class Standing:
    """Where a proposal stands. `stale` says in words what changed under it, "" if nothing did."""

    tallies: tuple[Tally, ...]
    expired: bool
    stale: str

    @property
    def approved(self) -> bool:
        """Whether every rule is satisfied and nothing stands against it."""
        satisfied = bool(self.tallies) and all(each.satisfied for each in self.tallies)
        return satisfied and not self.expired and not self.stale

    @property
    def hopeless(self) -> bool:
        """Whether those who have not rejected are too few."""
        return not all(each.reachable for each in self.tallies)


def demanded(
    world: World, view: View, operation: Operation, action: Action | None = None
) -> tuple[QuorumRule, ...]:
    """The rules that an operation needs satisfied, all of them; none: nobody has to be asked.

    `action` is the call it stands for, when more of it is known than the operation tells.
    """
    asked = action or operations.action(operation)
    rules = [quorum.rule for quorum in world.policy.current().quorums if quorum.demands(asked)]
    threshold = view.base_threshold()
    if threshold and _needs_base(view, operation):
        rules.append(QuorumRule(BASE, threshold))
    return tuple(rules)


class Signing(Protocol):
    """What is to be signed, by whom and in whose name; `reservation`: its version is bound."""

    @property
    def role(self) -> Role: ...

    @property
    def payload(self) -> Payload: ...

    @property
    def key(self) -> Key: ...

    @property
    def caller(self) -> Caller: ...

    @property
    def reservation(self) -> Reservation | None: ...


def use_approval(world: World, tx: Transaction, signing: Signing) -> None:
    """Use up the approval that a signature needs, in the transaction of its intent.

    Rules, officers and policy of this moment count, whatever held when the payload was judged.
    Raises: as `approving`.
    """
    approved = approved_signing if signing.reservation is None else approved_joining
    if name := approved(world, tx, signing.role, signing.payload, signing.key.name):
        consume(world, tx, name, signing.caller.principal)


def approved_signing(world: World, view: View, role: Role, payload: Payload, key: str) -> str:
    """As `approving`, for a payload that may be signed by all other rules."""
    # Thousands of signatures need no look at the ledger.
    if role.name != "root" and not world.policy.current().quorums:
        return ""
    return approving(world, view, _operation(role, payload), _action(role, key))


def approved_joining(world: World, view: View, role: Role, payload: Payload, key: str) -> str:
    """As `approved_signing`, for a key that adds its signature to a bound version.

    What holds for every key was asked for when the version was bound; a rule that names this key
    was not, if another key came first.
    """
    action = _action(role, key)
    naming = [
        quorum.rule
        for quorum in world.policy.current().quorums
        if key in quorum.scope.keys and quorum.demands(action)
    ]
    operation = _operation(role, payload)
    if not naming or _agreed(view, operations.digest(operation), naming):
        return ""
    return approving(world, view, operation, action)


def _agreed(view: View, digest: str, rules: Collection[QuorumRule]) -> bool:
    """Whether officers have let this be signed before, by all of these rules."""
    return any(
        proposal.state is ProposalState.EXECUTED and all(rule in proposal.rules for rule in rules)
        for proposal in view.proposals(digest)
    )


def _operation(role: Role, payload: Payload) -> SignMetadata:
    version = payload.signed["version"]
    return SignMetadata(role.repository, role.name, role.epoch, version, payload.digest)


def _action(role: Role, key: str) -> Action:
    return Action("SigningService.SignMetadata", role.repository, role.name, key)


def approving(world: World, view: View, operation: Operation, action: Action | None = None) -> str:
    """The name of an approved proposal for the operation, "" if it needs none.

    Raises: ApprovalRequired (APPROVAL_REQUIRED; `details["proposal"]` names one that is open,
    QUORUM_UNAVAILABLE when there are no officers).
    """
    rules = demanded(world, view, operation, action)
    if not rules:
        return ""
    check_available(view, operation)
    digest = operations.digest(operation)
    waiting = ""
    for proposal in view.open_proposals(digest):
        now = standing(world, view, proposal)
        covered = {rule.name: rule for rule in proposal.rules}
        if now.approved and all(covered.get(rule.name) == rule for rule in rules):
            return proposal.name
        if not (now.expired or now.stale):
            waiting = proposal.name
    raise _required(operation, rules, digest, waiting)


def named_by_policy(world: World, action: Action) -> bool:
    """Whether a rule of the policy file demands officers for the call."""
    return any(quorum.demands(action) for quorum in world.policy.current().quorums)


def check_available(view: View, operation: Operation) -> None:
    """Raises: ApprovalRequired (QUORUM_UNAVAILABLE) when there is nobody to ask."""
    if not view.base_threshold():
        raise ApprovalRequired(
            "QUORUM_UNAVAILABLE",
            f"to {operation.words()} needs a quorum of officers, and no officers are enrolled: "
            "keyd officer genesis enrols the first ones",
        )


def standing(world: World, view: View, proposal: Proposal) -> Standing:
    """Count anew, against the officers, rules and policy of now."""
    officers, said = view.officers(), view.approvals(proposal.name)
    excluded = excluded_from(proposal)
    approved = [each.officer for each in said if each.decision is Decision.APPROVE]
    rejected = [each.officer for each in said if each.decision is Decision.REJECT]
    return Standing(
        tallies=tuple(
            tally(rule, officers, approved=approved, rejected=rejected, excluded=excluded)
            for rule in proposal.rules
        ),
        expired=world.clock.now() >= proposal.expires_at,
        stale=_stale(world, view, proposal),
    )


def excluded_from(proposal: Proposal) -> Collection[str]:
    """Officers who do not count: who proposed it, and whom it is about."""
    concerned = operations.concerned(operations.decode(proposal.operation))
    return {proposal.officer, *concerned} - {""}


def check_reachable(
    rules: tuple[QuorumRule, ...], view: View, excluded: Collection[str] = ()
) -> None:
    """Refuse what can never be approved. Raises: PolicyViolation (QUORUM_UNREACHABLE)."""
    dead = unreachable(rules, view.officers(), excluded)
    if dead:
        raise PolicyViolation(
            "QUORUM_UNREACHABLE",
            f"the rule {dead[0].name!r} ({dead[0].words()}) cannot be satisfied by the officers "
            "who may decide this; let somebody else propose it, or enrol officers first",
        )


def check_approved(world: World, view: View, name: str) -> Proposal:
    """A proposal that is approved at this moment. Raises: ApprovalRequired."""
    proposal = view.proposal(name)
    if proposal is None or proposal.state is not ProposalState.OPEN:
        raise ApprovalRequired("APPROVAL_REQUIRED", f"proposal {name} is decided: create another")
    now = standing(world, view, proposal)
    if not now.approved:
        raise ApprovalRequired("APPROVAL_REQUIRED", why_not(proposal, now))
    return proposal


def consume(world: World, tx: Transaction, name: str, principal: str) -> None:
    """Use up an approved proposal in the transaction that does what it allows.

    Raises: ApprovalRequired when it is not approved any more.
    """
    end(world, tx, check_approved(world, tx, name), ProposalState.EXECUTED, principal)


def end(
    world: World, tx: Transaction, proposal: Proposal, state: ProposalState, principal: str
) -> Proposal:
    """Put a proposal's end on record."""
    ended = replace(proposal, state=state)
    tx.put_proposal(ended)
    fields: Fields = {"proposal": proposal.name, "state": state.value}
    tx.append(Entry(Event.PROPOSAL_ENDED, world.clock.now(), principal, fields=fields))
    return ended


def why_not(proposal: Proposal, now: Standing) -> str:
    """Why an open proposal cannot be executed, in a line."""
    if now.expired:
        return f"proposal {proposal.name} has expired: create another"
    if now.stale:
        return f"proposal {proposal.name} rests on {now.stale} that changed since: create another"
    missing = "; ".join(lacking(each) for each in now.tallies if not each.satisfied)
    return f"proposal {proposal.name} lacks {missing}; keyd proposal show names who may decide"


def lacking(now: Tally) -> str:
    """What one rule still lacks, in words."""
    groups = [f"{count} from {name}" for name, count in sorted(now.missing_groups.items())]
    persons = [f"{now.missing} more"] if now.missing else []
    return f"{' and '.join([*persons, *groups])} of {now.rule.words()} ({now.rule.name})"


def _needs_base(view: View, operation: Operation) -> bool:
    if isinstance(operation, SignMetadata):
        return operation.role == "root" and not _is_development(view, operation.repository)
    if isinstance(operation, ChangeKeyState):
        restored = operation.before == KeyState.DEACTIVATED and operation.after == KeyState.ACTIVE
        return restored or operation.after == KeyState.DESTROYED
    return isinstance(operation, _ALWAYS)


def _is_development(view: View, name: str) -> bool:
    repository = view.repository(name)
    return repository is not None and repository.development


def _stale(world: World, view: View, proposal: Proposal) -> str:
    if view.officers().digest != proposal.officers_sha256:
        return "officers"
    if world.policy.current().revision != proposal.policy_revision:
        return "a policy"
    rules = demanded(world, view, operations.decode(proposal.operation))
    return "" if rules == proposal.rules else "rules"


def _required(
    operation: Operation, rules: tuple[QuorumRule, ...], digest: str, waiting: str
) -> ApprovalRequired:
    needed = " and ".join(rule.words() for rule in rules)
    if waiting:
        advice = f"proposal {waiting} is open: keyd proposal show {waiting}"
    else:
        advice = "propose it with keyd proposal create"
    return ApprovalRequired(
        "APPROVAL_REQUIRED",
        f"to {operation.words()} needs {needed}; {advice}",
        details={
            # Cut off where it is long: a digest tells.
            "operation": operations.encode(operation).decode(),
            "operation_sha256": digest,
            "rule": needed,
            "proposal": waiting,
        },
    )
