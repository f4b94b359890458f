"""What a client of a running daemon reads in the details of a failure."""

from __future__ import annotations

import contextlib
import time

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo

from keyd.domain import canonical
from keyd_client.errors import BackendUnavailable, InvalidRequest, PolicyViolation
from keyd_protos.v1.signing_pb2 import MetadataToSign, SignMetadataRequest
from keyd_protos.v1.signing_pb2_grpc import SigningServiceStub
from tests.authors import Signed
from tests.daemon import REPOSITORY, Installation
from tests.serving import Refusal, refused
from tests.tally import Promise, tallied


def ask(installation: Installation, role: str, payload: bytes) -> Refusal:
    """Ask without the SDK, which would try again by itself."""
    item = MetadataToSign(key=role, repository=REPOSITORY, role=role, payload=payload)
    target = f"unix:{installation.socket()}"
    options = [("grpc.enable_retries", 0)]
    with grpc.insecure_channel(target, options) as channel, refused() as refusal:
        SigningServiceStub(channel).SignMetadata(SignMetadataRequest(metadata=item), timeout=20)
    return refusal


def test_an_absent_token_says_when_to_come_again(installation: Installation) -> None:
    """RetryInfo travels; the SDK hands it on, and the same request succeeds when it is back."""
    tokens = installation.softhsm / "tokens"
    away = tokens.with_name("unplugged")
    with (
        tallied(Promise.TOKENS_RECOVER, "token unplugged") as tally,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        payload = canonical.encode(recorder.writer.timestamp(2))
        recorder.public_key("timestamp")
        tokens.rename(away)
        tally.injected()
        refusal = ask(installation, "timestamp", payload)
        assert refusal.code == "UNAVAILABLE"
        retry = refusal.detail(RetryInfo)
        assert isinstance(retry, RetryInfo)
        pause_s = retry.retry_delay.ToTimedelta().total_seconds()
        assert 0 < pause_s <= 5
        info = refusal.detail(ErrorInfo)
        assert isinstance(info, ErrorInfo)
        assert (info.domain, info.reason) == ("keyd", refusal.reason)
        assert refusal.reason.startswith("TOKEN_")
        with pytest.raises(BackendUnavailable) as typed:
            recorder.sign("timestamp", "timestamp", payload, timeout_s=2.0)
        assert typed.value.retry_after_s
        away.rename(tokens)
        back = time.monotonic()
        answer = None
        while answer is None:
            with contextlib.suppress(BackendUnavailable):
                answer = recorder.sign("timestamp", "timestamp", payload)
        tally.recovered(time.monotonic() - back)
        assert answer.version == 2
        assert daemon.stop() == 0


def test_every_objection_names_its_place(installation: Installation) -> None:
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        writer = recorder.writer

        # Three rules object to a well-formed payload.
        snapshot = writer.snapshot(3, **{"bin-00": 1, "no-such-role": 1})
        snapshot["expires"] = writer.common("snapshot", 3, days=-1)["expires"]
        findings = objections(installation, snapshot)
        assert findings["/expires"] == "EXPIRED"
        assert findings["/meta/bin-00.json"] == "TARGETS_METADATA_UNKNOWN"
        assert findings["/meta/no-such-role.json"] == "TARGETS_METADATA_UNKNOWN"
        with pytest.raises(PolicyViolation) as typed:
            recorder.sign("snapshot", "snapshot", snapshot)
        assert {one.pointer for one in typed.value.findings} == set(findings)

        # What can never be signed is a bad request; a slash in a name is escaped (RFC 6901).
        file = {"length": -1, "hashes": {"sha256": "xyz"}}
        targets = writer.delegating(2) | {"targets": {"a/../b": file}}
        malformed = objections(installation, targets)
        assert malformed["/targets/a~1..~1b"] == "TARGET_PATH_UNSAFE"
        assert malformed["/targets/a~1..~1b/length"] == "TARGET_LENGTH_INVALID"
        with pytest.raises(InvalidRequest):
            recorder.sign("targets", "targets", targets)
        assert daemon.stop() == 0


def objections(installation: Installation, signed: Signed) -> dict[str, str]:
    """Reasons by JSON pointer, from BadRequest and PreconditionFailure; each has words."""
    refusal = ask(installation, signed["_type"], canonical.encode(signed))
    assert refusal.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
    found: dict[str, str] = {}
    request = refusal.detail(BadRequest)
    if isinstance(request, BadRequest):
        for field in request.field_violations:
            assert field.description
            found[field.field] = field.reason
    precondition = refusal.detail(PreconditionFailure)
    if isinstance(precondition, PreconditionFailure):
        for violation in precondition.violations:
            assert violation.type, "the rule's name"
            reason, _, words = violation.description.partition(": ")
            assert words
            found[violation.subject] = reason
    return found
