"""From gRPC failures and google.rpc.Status back to the SDK's typed errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from keyd_client import errors
from keyd_client.errors import Finding, KeydClientError

M = TypeVar("M", bound=Message)

_DOMAIN = "keyd"
_DETAILS = "grpc-status-details-bin"
_TRIED = "failed to connect to all addresses; last error: "
_UNSAFE = "it may have been carried out: look before you call again"
_FURTHER = re.compile(r" \(and \d+ more findings?\)$")
_BY_CODE: Mapping[int, type[KeydClientError]] = {
    Code.INVALID_ARGUMENT: errors.InvalidRequest,
    Code.OUT_OF_RANGE: errors.InvalidRequest,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.AlreadyExists,
    Code.UNAUTHENTICATED: errors.Unauthenticated,
    Code.PERMISSION_DENIED: errors.NotAllowed,
    Code.FAILED_PRECONDITION: errors.PolicyViolation,
    Code.ABORTED: errors.PolicyViolation,
    Code.UNAVAILABLE: errors.BackendUnavailable,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    Code.RESOURCE_EXHAUSTED: errors.Exhausted,
}
# Within FAILED_PRECONDITION the reason tells what the caller should do.
_BY_REASON: Mapping[str, type[KeydClientError]] = {
    "VERSION_ALREADY_SIGNED_DIFFERENTLY": errors.Equivocation,
    "CHANGE_NOT_CONFIRMED": errors.ChangeNotConfirmed,
    "APPROVAL_REQUIRED": errors.ApprovalRequired,
    "PROPOSAL_STALE": errors.ApprovalRequired,
    "QUORUM_UNAVAILABLE": errors.ApprovalRequired,
}
_BY_PREFIX: Mapping[str, type[KeydClientError]] = {
    "PIN_": errors.PinRejected,
}


def from_rpc_error(error: grpc.RpcError, target: str, timeout_s: float) -> KeydClientError:
    """The typed error behind a failed call to `target` that was given `timeout_s` seconds."""
    call = cast(grpc.Call, error)  # gRPC raises one object that is both
    for name, value in call.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            try:
                return from_status(Status.FromString(value))
            except DecodeError:
                break
    return _plain(call.code(), str(call.details() or ""), target, timeout_s)


def from_status(status: Status) -> KeydClientError:
    """The typed error that the daemon described in full."""
    info = next(iter(_unpack(status, ErrorInfo)), ErrorInfo())
    reason = info.reason if info.domain == _DOMAIN else ""
    retries = [retry.retry_delay for retry in _unpack(status, RetryInfo)]
    # The daemon counts further findings; the error's line names them.
    message = _FURTHER.sub("", status.message.removeprefix(f"{reason}: "))
    return _kind(status.code, reason)(
        reason or Code.Name(status.code),
        message,
        findings=_findings(status),
        details=dict(info.metadata),
        retry_after_s=retries[0].ToTimedelta().total_seconds() if retries else None,
    )


def _kind(code: int, reason: str) -> type[KeydClientError]:
    if code == Code.FAILED_PRECONDITION:
        if reason in _BY_REASON:
            return _BY_REASON[reason]
        for prefix, kind in _BY_PREFIX.items():
            if reason.startswith(prefix):
                return kind
    return _BY_CODE.get(code, errors.DaemonFault)


def _findings(status: Status) -> Iterator[Finding]:
    for request in _unpack(status, BadRequest):
        for field in request.field_violations:
            yield Finding(field.reason, field.field, field.description)
    for failure in _unpack(status, PreconditionFailure):
        for violation in failure.violations:
            reason, _, message = violation.description.partition(": ")
            yield Finding(reason, violation.subject, message, violation.type)


def once_only(error: KeydClientError) -> KeydClientError:
    """What an error means in a call that may have done its work and must not do it twice."""
    outcome = error.details.get("outcome", "")
    if not outcome and isinstance(error, errors.DeadlineExceeded):
        outcome = "UNKNOWN_RECORDED"
    if outcome != "UNKNOWN_RECORDED":
        return error
    # What follows the fact is advice for calls that may be repeated.
    fact = error.message.partition("; ")[0]
    return errors.OutcomeUnknown(error.reason, f"{fact}; {_UNSAFE}", details=error.details)


def _unpack(status: Status, kind: type[M]) -> Iterator[M]:
    for packed in status.details:
        message = kind()
        if packed.Is(kind.DESCRIPTOR) and packed.Unpack(message):
            yield message


def _plain(code: grpc.StatusCode, text: str, target: str, timeout_s: float) -> KeydClientError:
    """An error that gRPC itself made, without keyd's details."""
    text = " ".join(text.split()).removeprefix(_TRIED)[:300]
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.BackendUnavailable(
            "DAEMON_UNREACHABLE",
            f"no keyd answers at {target} ({text}); is it running, may this user reach it, and are "
            "the certificates valid? keyd doctor tells",
        )
    if code is grpc.StatusCode.CANCELLED:
        # Nobody here cancels: gRPC ends calls so that reach a server while it closes.
        return errors.BackendUnavailable(
            "DAEMON_UNREACHABLE",
            f"the keyd at {target} ended the call, as it does when it stops; is it running again?",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED",
            f"no answer from {target} within {timeout_s:g} s; repeating the same call is safe",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.DaemonFault(
            "UNIMPLEMENTED", f"the daemon at {target} does not know this call ({text}); upgrade it"
        )
    number: int = code.value[0]
    return _kind(number, "")(code.name, f"{text or 'no details'} (from {target})")
