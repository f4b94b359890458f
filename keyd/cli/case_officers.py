"""Who decides, as an officer's tool knows it: a list that it hashes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyd.cli.compared import Compared, same
from keyd.domain.officers import Officer, OfficerSet, officer_json, officer_of
from keyd.domain.operations import ChangeOfficer, officer_digest
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
    known = officers.get(operation.person.name) if officers is not None else None
    doubts: tuple[str, ...] = ()
    if officers is not None:
        same(officer_digest(known) if known else "", operation.before, "officer")
    elif operation.before:
        doubts = ("the officers are not listed: what changes of this one is not known",)
    against = f"the officer {operation.before[:16]}" if operation.before else "nothing"
    return Compared(f"changes against {against}", officer_changes(known, operation.person), doubts)


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
