"""Typed failures: one class per thing a caller can do about it, one stable reason per cause.

`reason` is UPPER_SNAKE, documented in docs/reference/errors.md and never renamed. `message` is one
line saying what to do next and holds no secret and no payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """Whether a finding refuses the operation or only informs."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True)
class Finding:
    """One rule's objection to one place in a payload or request.

    `pointer` is an RFC 6901 JSON pointer into the payload ("" is the whole document). `malformed`
    tells a payload that can never be signed from one that the present state refuses.
    """

    rule: str
    reason: str
    pointer: str
    message: str
    severity: Severity = Severity.REFUSE
    malformed: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


class KeydError(Exception):
    """Base of every refusal and failure that keyd reports on purpose."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        findings: Iterable[Finding] = (),
        details: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.findings = tuple(findings)
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s


class InvalidRequest(KeydError):
    """The request can never succeed as it is: correct it."""


class NotFound(KeydError):
    """The named resource does not exist."""


class AlreadyExists(KeydError):
    """The name, key or record is taken."""


class Unimplemented(KeydError):
    """This daemon does not know the method: it is older than the caller, or configured without."""


class Unauthenticated(KeydError):
    """No acceptable identity came with the call."""


class NotAllowed(KeydError):
    """This caller or this key may not do this."""


class PolicyViolation(KeydError):
    """Rules or recorded state refuse the operation; findings name every objection."""


class Equivocation(PolicyViolation):
    """The version is bound to another payload."""


class ApprovalRequired(KeydError):
    """The operation needs a quorum of officers."""


class PinRejected(KeydError):
    """The token refused the PIN, or an operator must act before another try."""


class BackendUnavailable(KeydError):
    """Token, log or ledger is down or draining: retry the same request later."""


class DeadlineExceeded(KeydError):
    """Time ran out; `details["outcome"]` is NOT_STARTED or UNKNOWN_RECORDED."""


class Exhausted(KeydError):
    """A quota or pool is used up: slow down."""


class SelfCheckFailed(KeydError):
    """A token's answer failed verification; the token is quarantined."""


class StateCorrupt(KeydError):
    """Ledger or log contradict themselves or their anchor; nothing is signed."""
