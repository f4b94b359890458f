"""How rules object: payloads that can never be signed, refusals by state, warnings, wrong keys."""

from __future__ import annotations

from keyd.domain.pointer import Path, pointer_to
from keyd.errors import Finding, Severity

KEY_KIND = "key"


def invalid(rule: str, reason: str, path: Path, message: str) -> Finding:
    """An objection that no recorded state and no setting could lift."""
    return Finding(rule, reason, pointer_to(path), message, malformed=True)


def refused(rule: str, reason: str, path: Path, message: str, **details: str) -> Finding:
    """An objection that follows from recorded state, time or settings."""
    return Finding(rule, reason, pointer_to(path), message, details=details)


def graded(warn: bool, rule: str, reason: str, path: Path, message: str) -> Finding:
    """An objection that refuses, or only warns where `warn` says so."""
    severity = Severity.WARN if warn else Severity.REFUSE
    return Finding(rule, reason, pointer_to(path), message, severity)


def wrong_key(rule: str, reason: str, message: str) -> Finding:
    """An objection to the key that is asked to sign, not to the payload."""
    return Finding(rule, reason, "", message, details={"kind": KEY_KIND})
