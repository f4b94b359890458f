"""Who decides, as an officer's tool knows it: a list that it hashes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyd.cli.compared import Compared, same
from keyd.domain.officers import Officer, OfficerSet, officer_json, officer_of
from keyd.domain.operations import ChangeOfficer, SucceedOfficer, officer_digest
from keyd.domain.quorum import BASE, QuorumRule, needs_outsider
from keyd.rpc.convert_officers import officer_in
from keyd.rpc.fields import Fields
from keyd_client import Client
from keyd_client.errors import NotAllowed
from keyd_client.messages import ListOfficersResponse


def listed(client: Client) -> OfficerSet | None:
    """All officers that the daemon names; None if this caller may not ask. Raises: KeydError."""
    try:
        return officers_of(client.officers.list())
    except NotAllowed:
        return None


def officers_of(answer: ListOfficersResponse) -> OfficerSet:
    """The officers in an answer. Raises: KeydError."""
    fields = Fields()
    people = tuple(
        officer_in(fields, f"/officers/{number}", each)
        for number, each in enumerate(answer.officers)
    )
    fields.check()
    return OfficerSet(people)


def advice(answer: ListOfficersResponse) -> str:
    """What to keep in reserve, so that the loss of one officer can be mended; "" if nothing."""
    rule = QuorumRule(BASE, answer.base_threshold)
    if not answer.base_threshold or not needs_outsider(rule, officers_of(answer)):
        return ""
    return (
        "if one officer is lost, all others must agree to the replacement, and who proposes it "
        "does not count: keep a caller who may propose and is none of the officers"
    )


def to_json(officers: OfficerSet | None) -> list[dict[str, Any]] | None:
    """For a statement file."""
    return None if officers is None else [officer_json(each) for each in officers.officers]


def of_json(value: Any) -> OfficerSet | None:
    """The inverse of `to_json`. Raises: KeyError, TypeError, ValueError."""
    return None if value is None else OfficerSet(tuple(officer_of(each) for each in value))


def officer_compared(operation: ChangeOfficer, officers: OfficerSet | None) -> Compared:
    """What happens to a person, against the listed one. Raises: InvalidRequest (DIGEST_MISMATCH)"""
    known = _listed_before(operation, officers)
    return Compared(
        f"changes against {_against(operation)}",
        officer_changes(known, operation.person),
        _doubts(operation, officers),
    )


def succession_compared(operation: SucceedOfficer, officers: OfficerSet | None) -> Compared:
    """The same of both persons, who joins first. Raises: InvalidRequest (DIGEST_MISMATCH)."""
    changes: list[str] = []
    doubts: list[str] = []
    for each in operation.changes:
        known = _listed_before(each, officers)
        changes.append(f"officer {each.person.name} against {_against(each)}:")
        changes += (f"  {line}" for line in officer_changes(known, each.person))
        doubts += _doubts(each, officers)
    return Compared("changes of two officers", tuple(changes), tuple(doubts))


def _listed_before(operation: ChangeOfficer, officers: OfficerSet | None) -> Officer | None:
    """Who is listed under the name; it must be whom the operation is about."""
    if officers is None:
        return None
    known = officers.get(operation.person.name)
    same(officer_digest(known) if known else "", operation.before, "officer")
    return known


def _against(operation: ChangeOfficer) -> str:
    return f"the officer {operation.before[:16]}" if operation.before else "nothing"


def _doubts(operation: ChangeOfficer, officers: OfficerSet | None) -> tuple[str, ...]:
    if officers is not None or not operation.before:
        return ()
    return ("the officers are not listed: what changes of this one is not known",)


def officer_changes(before: Officer | None, after: Officer) -> tuple[str, ...]:
    """What a change does to a person, one line for each member that differs."""
    known = dict(_members(before)) if before is not None else {}
    wanted = dict(_members(after))
    gone = [f"- {name}: {known[name]}" for name in known if known[name] != wanted.get(name)]
    new = [f"+ {name}: {wanted[name]}" for name in wanted if known.get(name) != wanted[name]]
    return (*gone, *new)


def _members(person: Officer) -> Iterator[tuple[str, str]]:
    yield "state", person.state.value
    yield "groups", ", ".join(sorted(person.groups)) or "none"
    yield "calls as", ", ".join(sorted(person.principals)) or "nobody"
    for key in person.keys:
        name = f"key {key.fingerprint}"
        yield name, f"{key.scheme.value}, {key.kind.value}, {key.state.value}"
