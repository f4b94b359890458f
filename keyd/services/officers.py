"""Officers: the first ones, and every change of one."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain import public_keys
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.officers import (
    Officer,
    OfficerKey,
    OfficerKeyKind,
    OfficerKeyState,
    OfficerSet,
    OfficerState,
    check_names,
)
from keyd.domain.operations import (
    ChangeOfficer,
    SucceedOfficer,
    officer_digest,
    officer_text,
)
from keyd.domain.policy import Action, Caller, Policy, Quorum
from keyd.domain.quorum import BASE, QuorumRule, unreachable
from keyd.errors import AlreadyExists, InvalidRequest, PolicyViolation
from keyd.ports import Transaction, View
from keyd.services.authorize import demand, demand_administrator
from keyd.services.world import World

# Without these, nobody could mend anything.
_ESCAPES = frozenset({"OfficerService.ChangeOfficers", "OfficerService.AcceptPolicy"})
# What the base rule stands before wherever it is about the root of a production repository.
_ROOT_CALLS = (
    "SigningService.SignMetadata",
    "RepositoryService.SetRoleRules",
    "RepositoryService.VoidReservation",
    "RotationService.StartRotation",
)
_PRODUCTION_LEAST = 2


def enrol_first(
    world: World, caller: Caller, officers: Sequence[Officer], threshold: int
) -> OfficerSet:
    """Enrol the first officers with the rule that every loosening needs from then on.

    Raises: NotAllowed, AlreadyExists (OFFICERS_EXIST), InvalidRequest, PolicyViolation (the rules
    of the policy in force included).
    """
    demand_administrator(world, caller, Action("OfficerService.EnrolFirstOfficers"))

    def work(tx: Transaction) -> OfficerSet:
        if tx.base_threshold():
            raise AlreadyExists(
                "OFFICERS_EXIST", "there are officers already; propose to enrol further ones"
            )
        for officer in officers:
            if officer.state is not OfficerState.ENROLLED:
                raise InvalidRequest("OFFICER_INVALID", f"{officer.name!r} must be ENROLLED")
            put(world, tx, officer, caller.principal)
        put_base(world, tx, threshold, caller.principal)
        check_lone_rules(world.policy.current(), tx)
        return tx.officers()

    return world.ledger.transact(work)


def list_officers(world: World, caller: Caller) -> tuple[OfficerSet, int]:
    """All officers that ever were, and the base rule's threshold (0: there are none)."""
    demand(world, caller, Action("OfficerService.ListOfficers"))
    return world.ledger.read(lambda view: (view.officers(), view.base_threshold()))


def change(world: World, tx: Transaction, operation: ChangeOfficer, principal: str) -> None:
    """Make an officer what an approved operation says. Raises: PolicyViolation, InvalidRequest."""
    _change(world, tx, operation, principal)
    check_reserve(world.policy.current(), tx.officers(), tx.base_threshold())


def succeed(world: World, tx: Transaction, operation: SucceedOfficer, principal: str) -> None:
    """Let a person take another's place. Raises: PolicyViolation, InvalidRequest."""
    comes, goes = operation.changes
    states = comes.person.state, goes.person.state
    same = comes.person.name == goes.person.name
    if states != (OfficerState.ENROLLED, OfficerState.REVOKED) or same or not operation.before:
        raise InvalidRequest(
            "OFFICER_INVALID", "one person must be revoked, and another one enrolled"
        )
    for each in (comes, goes):
        _change(world, tx, each, principal)
    check_reserve(world.policy.current(), tx.officers(), tx.base_threshold())


def _change(world: World, tx: Transaction, operation: ChangeOfficer, principal: str) -> None:
    person = operation.person
    known = tx.officers().get(person.name)
    if (officer_digest(known) if known else "") != operation.before:
        raise PolicyViolation(
            "OFFICER_CHANGED", f"officer {person.name!r} was changed since: propose it anew"
        )
    if known is not None and known.state is OfficerState.REVOKED:
        raise PolicyViolation(
            "OFFICER_REVOKED", f"{person.name!r} was revoked; enrol the person under another name"
        )
    put(world, tx, person, principal)


def put(world: World, tx: Transaction, officer: Officer, principal: str) -> None:
    """Check an officer against everything else, and record them."""
    check_officer(tx, officer)
    fields: Fields = {"officer": officer.name, "document": officer_text(officer)}
    leaf = tx.append(Entry(Event.OFFICER_CHANGED, world.clock.now(), principal, fields=fields))
    tx.put_officer(officer, leaf)


def put_base(world: World, tx: Transaction, threshold: int, principal: str) -> None:
    """Set the base rule. Raises: PolicyViolation when it is too low, or has no reserve."""
    if threshold < 1 or (threshold < _PRODUCTION_LEAST and not tx.identity().development):
        raise PolicyViolation(
            "BASE_RULE_TOO_LOW", "the base rule needs at least 2 officers (1 for development)"
        )
    check_reserve(world.policy.current(), tx.officers(), threshold)
    fields: Fields = {"threshold": threshold}
    leaf = tx.append(Entry(Event.BASE_RULE_SET, world.clock.now(), principal, fields=fields))
    tx.put_base_threshold(threshold, leaf)


def check_reserve(policy: Policy, officers: OfficerSet, threshold: int) -> None:
    """Refuse officers or rules with which nobody could change anything once one person is lost.

    Who is lost does not help to replace themselves: the base rule, and whatever rule of the policy
    stands before changes of officers or of the policy itself, must hold without any one person.
    `threshold`: the base rule's. Raises: PolicyViolation (QUORUM_UNREACHABLE,
    QUORUM_WITHOUT_RESERVE).
    """
    base = QuorumRule(BASE, threshold)
    if dead := unreachable([base, *(quorum.rule for quorum in policy.quorums)], officers):
        raise PolicyViolation(
            "QUORUM_UNREACHABLE",
            f"the rule {dead[0].name!r} ({dead[0].words()}) could never be satisfied; "
            "enrol somebody first, or lower the rule",
        )
    escapes = [base, *(each.rule for each in policy.quorums if each.scope.methods & _ESCAPES)]
    for officer in officers.able:
        if stuck := unreachable(escapes, officers, [officer.name]):
            raise PolicyViolation(
                "QUORUM_WITHOUT_RESERVE",
                f"without {officer.name!r} the rule {stuck[0].name!r} ({stuck[0].words()}) could "
                "not be satisfied: if that person is lost, nothing could be changed any more; "
                "enrol one officer more first",
            )


def check_lone_rules(policy: Policy, view: View) -> None:
    """Refuse rules that seem to let one officer decide on the root of a production repository.

    The base rule asks for two there whatever the policy says, so such a line would mislead whoever
    reads it. With a group it asks for more than the base rule does, and stands. A repository that
    is not known counts as one of production. Raises: PolicyViolation (QUORUM_WITHOUT_EFFECT).
    """
    for quorum in policy.quorums:
        lone = quorum.rule.threshold < _PRODUCTION_LEAST and not quorum.rule.groups
        call = _production_root_call(quorum, view) if lone else ""
        if call:
            raise PolicyViolation(
                "QUORUM_WITHOUT_EFFECT",
                f"quorum {quorum.rule.name!r} (line {quorum.scope.line}) asks 1 officer for {call} "
                "on the root of a production repository, where the base rule asks at least "
                f"{_PRODUCTION_LEAST}: the line demands nothing there. Write officers = "
                f"{_PRODUCTION_LEAST} or more, or name only roles other than root, only "
                "development repositories, or other methods",
            )


def _production_root_call(quorum: Quorum, view: View) -> str:
    """The first call about a production repository's root that the rule covers, or ""."""
    if view.identity().development:
        return ""
    known = {name: view.repository(name) for name in quorum.scope.repositories}
    names = [name for name, found in known.items() if found is None or not found.development]
    if quorum.scope.any_repository:
        names.append("")
    for method in _ROOT_CALLS:
        if any(quorum.demands(Action(method, name, "root")) for name in names):
            return method
    return ""


def check_officer(view: View, officer: Officer) -> None:
    """Raises: InvalidRequest, PolicyViolation."""
    check_names(officer)
    if officer.state is OfficerState.ENROLLED and not officer.able:
        raise InvalidRequest("OFFICER_INVALID", f"{officer.name!r} has no key that approves")
    seen = [key.fingerprint for key in officer.keys]
    if len(set(seen)) < len(seen):
        raise InvalidRequest("OFFICER_INVALID", f"{officer.name!r} has the same key twice")
    for key in officer.keys:
        _check_key(view, officer, key)
    for other in view.officers().officers:
        if other.name != officer.name and other.principals & officer.principals:
            raise PolicyViolation(
                "OFFICER_PRINCIPAL_TAKEN",
                f"{other.name!r} calls under the same name as {officer.name!r}: who proposes what "
                "could not be told",
            )


def _check_key(view: View, officer: Officer, key: OfficerKey) -> None:
    public_keys.check_matches_scheme(key.public_der, key.scheme.value)
    active = key.state is OfficerKeyState.ACTIVE
    if active and key.kind is OfficerKeyKind.FILE and not view.identity().development:
        raise PolicyViolation(
            "OFFICER_KEY_IN_FILE", "keys in files approve in development only; use a token"
        )
    if view.key_by_fingerprint(key.fingerprint) or view.material(key.fingerprint):
        raise PolicyViolation(
            "OFFICER_KEY_SIGNS_METADATA",
            f"the key {key.fingerprint[:16]} of {officer.name!r} signs for a repository; an "
            "officer's key approves and does nothing else",
        )
    holder = view.officers().holder_of(key.fingerprint)
    if holder is not None and holder.name != officer.name:
        raise PolicyViolation(
            "OFFICER_KEY_TAKEN", f"the key {key.fingerprint[:16]} is {holder.name!r}'s"
        )
