"""What a plan finds: refusals and warnings."""

from __future__ import annotations

from keyd.errors import Finding, Severity


def refused(reason: str, message: str) -> Finding:
    """What forbids a plan."""
    return Finding("rotation", reason, "", message)


def warned(reason: str, message: str) -> Finding:
    """What somebody should know before the plan is carried out."""
    return Finding("rotation", reason, "", message, Severity.WARN)


def graded(warn: bool, reason: str, message: str) -> Finding:
    """A warning or a refusal."""
    return warned(reason, message) if warn else refused(reason, message)
