"""A plan as somebody reads it who did not make it: an officer, or the officer's tool."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain import public_keys
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange
from keyd.domain.rotation.plan import Plan, plan_of, table
from keyd.errors import Finding, InvalidRequest, Severity


def read_plan(raw: bytes) -> Plan:
    """The plan that bytes are. Raises: InvalidRequest (PLAN_UNREADABLE) unless they are one."""
    try:
        plan = plan_of(raw)
        # Steps that needs name may be missing, and members may be anything.
        table(plan)
        _lines(plan)
        same = plan.raw == raw
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable("it is no plan of a rotation that this keyd knows") from error
    if not same:
        raise _unreadable("it is not in the form that plans have")
    return plan


def plan_lines(plan: Plan) -> tuple[str, ...]:
    """The table of the plan, then every key and threshold that changes, then what to think about.

    Texts of steps are the planner's words; the lines below them are of the change itself.
    """
    return (*table(plan), *_lines(plan))


def finding_line(finding: Finding) -> str:
    """One objection or warning."""
    word = "refused" if finding.severity is Severity.REFUSE else "warning"
    return f"{word}: {finding.reason}: {finding.message}"


def _lines(plan: Plan) -> tuple[str, ...]:
    said = tuple(dict.fromkeys(map(finding_line, plan.findings)))
    return ("", "what changes:", *(f"     {line}" for line in _changes(plan.change)), *said)


def _changes(change: ChangeSet) -> Iterator[str]:
    for role in change.changes:
        yield from _role(role)
    for fingerprint in change.compromised:
        yield f"compromised key: {fingerprint}"
    for name, version in sorted(change.lower.items()):
        yield f"role {name}: goes on from version {version} in a new epoch"
    if change.root_expires_s:
        yield f"root expires {change.root_expires_s} s after it is made"


def _role(change: RoleChange) -> Iterator[str]:
    for key in change.add:
        yield f"role {change.role}: key added: {_key(key)}"
    for fingerprint in change.remove:
        yield f"role {change.role}: key removed: {fingerprint}"
    if change.threshold is not None:
        yield f"role {change.role}: threshold becomes {change.threshold}"


def _key(key: NewKey) -> str:
    if not key.holder:
        known = f"{key.fingerprint}, " if key.fingerprint else ""
        return f"{known}{key.label}, on token {key.token} ({key.scheme})"
    try:
        material = public_keys.fingerprint_of(key.key_object or {})
    except InvalidRequest:
        material = "a key that nothing decodes"
    return f"{material}, {key.label} of {key.holder}"


def _unreadable(why: str) -> InvalidRequest:
    return InvalidRequest("PLAN_UNREADABLE", f"the plan cannot be read: {why}")
