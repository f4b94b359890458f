"""The one place where typed errors become gRPC codes and google.rpc details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status

from keyd import errors
from keyd.errors import Finding, KeydError, Severity
from keyd.rpc import limits

DOMAIN = "keyd"
# Trailers percent-encode what is not ASCII: a character may take 12 bytes there.
_MESSAGE_MAX = 600
_MESSAGE_MAX_NOT_ASCII = 150

# Subclasses before their bases would matter only for a class without an entry of its own.
CODES: Mapping[type[KeydError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.PolicyViolation: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Equivocation: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ApprovalRequired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PinRejected: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BackendUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SelfCheckFailed: grpc.StatusCode.INTERNAL,
    errors.StateCorrupt: grpc.StatusCode.DATA_LOSS,
}

_FAULTS = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DATA_LOSS,
    }
)


def code_of(error: KeydError) -> grpc.StatusCode:
    """The code of an error's class, or of the nearest class above it."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def is_refusal(code: grpc.StatusCode) -> bool:
    """Whether keyd said no, as opposed to being unable."""
    return code not in _FAULTS


def status_of(
    error: KeydError, call_id: str = "", max_bytes: int = limits.ERROR_DETAILS_MAX
) -> Status:
    """ErrorInfo always; BadRequest, PreconditionFailure and RetryInfo as they apply.

    Findings that do not fit into `max_bytes` are left out from the end, never silently:
    `findings_omitted` in the ErrorInfo counts them.
    """
    findings = [f for f in error.findings if f.severity is Severity.REFUSE]
    shown = len(findings)
    while True:
        status = _status(error, call_id, findings[:shown], len(findings) - shown)
        if shown == 0 or status.ByteSize() <= max_bytes:
            return status
        # Half of them at first, then one by one: findings have similar lengths.
        shown = shown // 2 if status.ByteSize() > 2 * max_bytes else shown - 1


def internal_status(call_id: str) -> Status:
    """What a caller learns of a failure that nobody foresaw: where to look, and nothing else."""
    status = Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message=f"INTERNAL: unexpected failure; look for call_id {call_id} in the daemon's log",
    )
    status.details.add().Pack(
        ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"call_id": call_id})
    )
    return status


def _status(error: KeydError, call_id: str, shown: list[Finding], omitted: int) -> Status:
    metadata = {key: _clip(value) for key, value in error.details.items()}
    if call_id:
        metadata["call_id"] = call_id
    if omitted:
        metadata["findings_omitted"] = str(omitted)
    status = Status(code=code_of(error).value[0], message=_clip(str(error)))
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    malformed = [finding for finding in shown if finding.malformed]
    refused = [finding for finding in shown if not finding.malformed]
    if malformed:
        status.details.add().Pack(BadRequest(field_violations=_field_violations(malformed)))
    if refused:
        status.details.add().Pack(PreconditionFailure(violations=_violations(refused)))
    if error.retry_after_s is not None or isinstance(error, errors.BackendUnavailable):
        status.details.add().Pack(RetryInfo(retry_delay=_delay(error.retry_after_s)))
    return status


def _field_violations(findings: Iterable[Finding]) -> Iterable[BadRequest.FieldViolation]:
    for finding in findings:
        yield BadRequest.FieldViolation(
            field=finding.pointer, reason=finding.reason, description=_clip(finding.message)
        )


def _violations(findings: Iterable[Finding]) -> Iterable[PreconditionFailure.Violation]:
    for finding in findings:
        yield PreconditionFailure.Violation(
            type=finding.rule,
            subject=finding.pointer,
            description=f"{finding.reason}: {_clip(finding.message)}",
        )


def _clip(text: str) -> str:
    return text[: _MESSAGE_MAX if text.isascii() else _MESSAGE_MAX_NOT_ASCII]


def _delay(seconds: float | None) -> Duration:
    delay = Duration()
    delay.FromMilliseconds(round(1000 * (limits.RETRY_AFTER_S if seconds is None else seconds)))
    return delay
