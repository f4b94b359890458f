"""From findings to the one error a caller gets."""

from __future__ import annotations

from collections.abc import Iterable

from keyd.domain.rules.objections import KEY_KIND
from keyd.errors import (
    ApprovalRequired,
    Equivocation,
    Finding,
    InvalidRequest,
    KeydError,
    NotAllowed,
    PolicyViolation,
)


def refusal(findings: Iterable[Finding]) -> KeydError:
    """The error for these refusing findings; its reason is the first one's.

    Malformed payloads win over state, state over "not with this key": a caller who fixes the
    reported class first never fixes in vain.
    """
    refusing = tuple(findings)
    kind, first = _kind(refusing)
    others = len(refusing) - 1
    more = f" (and {others} more finding{'s' if others > 1 else ''})" if others else ""
    return kind(first.reason, first.message + more, findings=refusing, details=first.details)


def _kind(findings: tuple[Finding, ...]) -> tuple[type[KeydError], Finding]:
    for finding in findings:
        if finding.malformed:
            return InvalidRequest, finding
    for finding in findings:
        if finding.reason == "VERSION_ALREADY_SIGNED_DIFFERENTLY":
            return Equivocation, finding
    state = [f for f in findings if f.details.get("kind") != KEY_KIND]
    if not state:
        return NotAllowed, findings[0]
    if all(f.reason == "QUORUM_UNAVAILABLE" for f in state):
        return ApprovalRequired, state[0]
    return PolicyViolation, state[0]
