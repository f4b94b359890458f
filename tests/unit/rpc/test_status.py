"""Typed errors as gRPC status: code, reason, all findings, and never too large for a trailer."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status

from keyd import errors
from keyd.errors import Finding, InvalidRequest, KeydError, PolicyViolation, Severity
from keyd.rpc import limits
from keyd.rpc.status import CODES, code_of, internal_status, is_refusal, status_of

EXPECTED = {
    "InvalidRequest": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "Unimplemented": "UNIMPLEMENTED",
    "Unauthenticated": "UNAUTHENTICATED",
    "NotAllowed": "PERMISSION_DENIED",
    "PolicyViolation": "FAILED_PRECONDITION",
    "Equivocation": "FAILED_PRECONDITION",
    "ApprovalRequired": "FAILED_PRECONDITION",
    "PinRejected": "FAILED_PRECONDITION",
    "BackendUnavailable": "UNAVAILABLE",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Exhausted": "RESOURCE_EXHAUSTED",
    "SelfCheckFailed": "INTERNAL",
    "StateCorrupt": "DATA_LOSS",
}


def detail(status: Status, kind: type[Message]) -> Message:
    found = [packed for packed in status.details if packed.Is(kind.DESCRIPTOR)]
    assert len(found) == 1
    message = kind()
    found[0].Unpack(message)
    return message


def kinds(status: Status) -> list[str]:
    return [packed.TypeName().rpartition(".")[2] for packed in status.details]


def classes() -> list[type[KeydError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, KeydError) and kind is not KeydError]


@pytest.mark.parametrize("kind", classes())
def test_every_class_has_the_documented_code(kind: type[KeydError]) -> None:
    error = kind("SOME_REASON", "do this")
    assert code_of(error).name == EXPECTED[kind.__name__]
    assert status_of(error).code == code_of(error).value[0]
    assert kind in CODES


def test_subclasses_elsewhere_inherit_their_code() -> None:
    class Special(errors.NotFound):
        pass

    assert code_of(Special("A", "b")) is grpc.StatusCode.NOT_FOUND
    assert code_of(KeydError("A", "b")) is grpc.StatusCode.INTERNAL


def test_reason_details_and_call_id() -> None:
    status = status_of(errors.NotFound("KEY_UNKNOWN", "list them", details={"a": "b"}), "f00d")
    assert status.message == "KEY_UNKNOWN: list them"
    assert detail(status, ErrorInfo) == ErrorInfo(
        reason="KEY_UNKNOWN", domain="keyd", metadata={"a": "b", "call_id": "f00d"}
    )
    assert kinds(status) == ["ErrorInfo"]


def test_malformed_findings_become_field_violations() -> None:
    finding = Finding("A1", "PAYLOAD_NOT_CANONICAL", "/signed/x", "sort it", malformed=True)
    violation = BadRequest.FieldViolation(
        field="/signed/x", reason="PAYLOAD_NOT_CANONICAL", description="sort it"
    )
    status = status_of(InvalidRequest("PAYLOAD_NOT_CANONICAL", "m", findings=[finding]))
    assert detail(status, BadRequest) == BadRequest(field_violations=[violation])
    assert kinds(status) == ["ErrorInfo", "BadRequest"]


def test_other_findings_become_precondition_violations_and_warnings_nothing() -> None:
    findings = [
        Finding("A7", "VERSION_NOT_INCREASING", "/version", "use 4"),
        Finding("A5", "EXPIRY_FAR", "/expires", "sooner", severity=Severity.WARN),
        Finding("R3", "THRESHOLD_LOW", "/roles/root", "raise it"),
    ]
    status = status_of(PolicyViolation("VERSION_NOT_INCREASING", "m", findings=findings))
    violations = detail(status, PreconditionFailure)
    assert violations == PreconditionFailure(
        violations=[
            PreconditionFailure.Violation(
                type="A7", subject="/version", description="VERSION_NOT_INCREASING: use 4"
            ),
            PreconditionFailure.Violation(
                type="R3", subject="/roles/root", description="THRESHOLD_LOW: raise it"
            ),
        ]
    )


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (errors.BackendUnavailable("TOKEN_OFFLINE", "later", retry_after_s=2.5), 2.5),
        (errors.BackendUnavailable("TOKEN_OFFLINE", "later"), limits.RETRY_AFTER_S),
        (errors.Exhausted("QUOTA", "slower", retry_after_s=0.25), 0.25),
    ],
)
def test_retry_info(error: KeydError, delay: float) -> None:
    retry = detail(status_of(error), RetryInfo)
    assert isinstance(retry, RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == delay


def test_many_findings_are_cut_and_counted() -> None:
    findings = [
        Finding("S3", "HASH_LENGTH", f"/targets/file-{number}/hashes/sha256", "has 63 digits" * 5)
        for number in range(500)
    ]
    status = status_of(PolicyViolation("HASH_LENGTH", "m", findings=findings), "f00d")
    assert status.ByteSize() <= limits.ERROR_DETAILS_MAX
    shown = detail(status, PreconditionFailure)
    info = detail(status, ErrorInfo)
    assert isinstance(shown, PreconditionFailure)
    assert isinstance(info, ErrorInfo)
    assert len(shown.violations) >= 10
    assert len(shown.violations) + int(info.metadata["findings_omitted"]) == 500
    assert shown.violations[0].subject == "/targets/file-0/hashes/sha256"


def test_long_words_are_clipped() -> None:
    ascii_, other = "x" * 10_000, "\N{GREEK SMALL LETTER ALPHA}" * 10_000
    for words in (ascii_, other):
        findings = [Finding("A1", "LONG", "", words)]
        error = PolicyViolation("LONG", words, findings=findings, details={"long": words})
        assert status_of(error).ByteSize() <= limits.ERROR_DETAILS_MAX


def test_internal_status_tells_only_the_call_id() -> None:
    status = internal_status("f00d")
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "f00d" in status.message
    assert detail(status, ErrorInfo) == ErrorInfo(
        reason="INTERNAL", domain="keyd", metadata={"call_id": "f00d"}
    )


def test_refusals_and_faults() -> None:
    assert is_refusal(grpc.StatusCode.PERMISSION_DENIED)
    assert not is_refusal(grpc.StatusCode.UNAVAILABLE)
