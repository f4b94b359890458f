"""Typed failures of the SDK: one class per thing that the caller can do about it.

`str(error)` is one line (reason, rule in words, next step) without secrets or payloads, because
tools such as python-tuf show users nothing else. `reason` is a stable UPPER_SNAKE name, listed in
docs/reference/errors.md; behind `UnsignedMetadataError` it is found through ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyd_client.pending import PendingApproval


@dataclass(frozen=True)
class Finding:
    """One rule's objection. `pointer` is an RFC 6901 JSON pointer into the payload or request."""

    reason: str
    pointer: str
    message: str
    rule: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


class KeydClientError(Exception):
    """Base of everything that the SDK raises on purpose.

    `findings` are all objections that the daemon had; `details` machine-readable particulars such
    as ``next_version``; `retry_after_s` is set when repeating the same call later may succeed.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        findings: Iterable[Finding] = (),
        details: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.reason = reason
        self.message = " ".join(message.split())
        self.findings = tuple(findings)
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s
        super().__init__(self._line())

    def _line(self) -> str:
        others = [
            f"{finding.reason} at {finding.pointer or '/'}"
            for finding in self.findings
            if finding.reason != self.reason
        ]
        return f"{self.reason}: {self.message}" + (
            f" (also: {', '.join(others)})" if others else ""
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Keyword arguments survive pickling: worker pools hand exceptions between processes."""
        extra = {
            "findings": self.findings,
            "details": self.details,
            "retry_after_s": self.retry_after_s,
        }
        return _rebuild, (type(self), self.reason, self.message, extra)


def _rebuild(
    kind: type[KeydClientError], reason: str, message: str, extra: dict[str, Any]
) -> KeydClientError:
    return kind(reason, message, **extra)


class ProfileError(KeydClientError):
    """The client profile or a file that it names is missing or wrong: mend it, then try again."""


class UriError(KeydClientError, ValueError):
    """Not a URI of the form ``keyd:<profile>/<key>``."""


class InvalidRequest(KeydClientError):
    """The request can never succeed as it is: correct it."""


class NotFound(KeydClientError):
    """The named resource does not exist."""


class AlreadyExists(KeydClientError):
    """The name, key or record is taken."""


class Unauthenticated(KeydClientError):
    """The daemon accepts no identity of this profile: check its certificate or socket."""


class NotAllowed(KeydClientError):
    """The policy does not let this identity, or this key, do this."""


class PolicyViolation(KeydClientError):
    """Rules or recorded state refuse: read `findings`, change the payload or the state."""


class Equivocation(PolicyViolation):
    """The version is bound to another payload for ever: use the next version."""


class ChangeNotConfirmed(PolicyViolation):
    """A root change wants to be read and confirmed: `CheckMetadata` shows it."""


class ApprovalRequired(KeydClientError):
    """A quorum of officers must approve the operation."""


class ApprovalPending(ApprovalRequired):
    """It is proposed; `pending` waits for officers and then does what was refused."""

    def __init__(self, refusal: ApprovalRequired, pending: PendingApproval) -> None:
        super().__init__(refusal.reason, refusal.message, details=refusal.details)
        self.pending = pending


class ProposalEnded(KeydClientError):
    """What officers were asked will not be allowed as it was proposed: read the reason."""


class PinRejected(KeydClientError):
    """The token waits for an operator: ``keyd token unlock``."""


class BackendUnavailable(KeydClientError):
    """Daemon, token or ledger is down: repeat the same call later."""


class DeadlineExceeded(KeydClientError):
    """Time ran out. Repeating the same call is safe: a recorded signature is returned as it is."""


class OutcomeUnknown(KeydClientError):
    """A call that must not just be repeated may have been carried out: look before another one."""


class Exhausted(KeydClientError):
    """A quota is used up: slow down."""


class DaemonFault(KeydClientError):
    """The daemon found itself, its ledger or a token at fault: tell its operator."""


class AnswerMismatch(KeydClientError):
    """The answer does not fit what was sent: wrong daemon, wrong key or a fault; do not use it."""
