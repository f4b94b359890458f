"""Signing over a real socket: what goes in, what comes out, and how refusals look."""

from __future__ import annotations

import hashlib

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from structlog.testing import capture_logs

from keyd.domain import public_keys
from keyd.domain.keys import Content
from keyd.errors import BackendUnavailable
from keyd_protos.v1 import signing_pb2, signing_pb2_grpc
from tests.serving import LIMIT_S, Place, refused, to_sign
from tests.worlds import Author, make_key


def test_sign_metadata_answers_with_all_that_clients_check(
    channel: grpc.Channel, author: Author
) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    item = to_sign(author, "root-1", "root", author.root())
    request = signing_pb2.SignMetadataRequest(metadata=item, request_id="first")
    made = stub.SignMetadata(request, timeout=LIMIT_S).signature
    key = author.keys["root-1"]
    public_keys.verify(key.public_der, key.scheme, item.payload, made.signature)
    assert made.signature_sha256 == hashlib.sha256(made.signature).digest()
    assert (made.payload_sha256, made.key_sha256) == (item.payload_sha256, item.key_sha256)
    assert (made.key, made.scheme, made.repository, made.role) == (
        "root-1",
        "ed25519",
        "demo",
        "root",
    )
    assert (made.epoch, made.version, made.replayed, made.accepted) == (0, 1, False, False)
    # One more is missing in the list that bootstrap set and in the one that root 1 gives itself.
    assert made.missing_signatures == 2
    again = stub.SignMetadata(request, timeout=LIMIT_S).signature
    assert (again.replayed, again.signature, again.log_index) == (
        True,
        made.signature,
        made.log_index,
    )


def test_a_batch_answers_each_chunk_in_order(channel: grpc.Channel, author: Author) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    root, other = author.root(), author.root(days=300)
    chunks = [
        signing_pb2.BatchSignMetadataRequest(
            items=[
                to_sign(author, "root-1", "root", root),
                to_sign(author, "root-1", "root", other),
                signing_pb2.MetadataToSign(key="root-1"),
                to_sign(author, "root-2", "root", root),
            ]
        ),
        signing_pb2.BatchSignMetadataRequest(
            items=[
                to_sign(author, "targets", "targets", author.targets()),
                to_sign(author, "snapshot", "snapshot", author.snapshot()),
                to_sign(author, "timestamp", "timestamp", author.timestamp()),
            ]
        ),
    ]
    first, second = list(stub.BatchSignMetadata(iter(chunks), timeout=LIMIT_S))
    kinds = [result.WhichOneof("outcome") for result in first.results]
    assert kinds == ["signature", "error", "error", "signature"]
    assert first.results[3].signature.accepted
    assert [result.signature.role for result in second.results] == [
        "targets",
        "snapshot",
        "timestamp",
    ]
    assert all(result.signature.accepted for result in second.results)
    equivocation, incomplete = first.results[1].error, first.results[2].error
    assert equivocation.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "VERSION_ALREADY_SIGNED_DIFFERENTLY" in equivocation.message
    assert incomplete.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    info = ErrorInfo()
    assert incomplete.details[0].Unpack(info)
    assert info.reason == "FIELD_REQUIRED"


@pytest.mark.parametrize("items", [0, 65])
def test_chunks_have_1_to_64_items(channel: grpc.Channel, items: int) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    chunk = signing_pb2.BatchSignMetadataRequest(
        items=[signing_pb2.MetadataToSign(key="k")] * items
    )
    with refused() as refusal:
        list(stub.BatchSignMetadata(iter([chunk]), timeout=LIMIT_S))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "BATCH_SIZE")


def test_check_and_get(channel: grpc.Channel, author: Author) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    item = to_sign(author, "root-1", "root", author.root())
    judged = stub.CheckMetadata(signing_pb2.CheckMetadataRequest(metadata=item), timeout=LIMIT_S)
    assert (judged.would_sign, judged.next_version, judged.role) == (True, 1, "root")
    assert judged.payload_sha256 == item.payload_sha256
    wanted = signing_pb2.GetSignatureRequest(repository="demo", role="root", version=1)
    with refused() as refusal:
        stub.GetSignature(wanted, timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "VERSION_NOT_RECORDED")
    stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    found = stub.GetSignature(wanted, timeout=LIMIT_S)
    assert found.payload == item.payload
    assert [signature.key for signature in found.signatures] == ["root-1"]


def test_rules_are_reported_with_pointers_all_at_once(
    channel: grpc.Channel, author: Author
) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    signed = author.root(version=3, days=4000)
    item = to_sign(author, "root-1", "root", signed)
    with refused() as refusal:
        stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    assert refusal.code == "FAILED_PRECONDITION"
    failure = refusal.detail(PreconditionFailure)
    assert isinstance(failure, PreconditionFailure)
    assert {"/version", "/expires"} <= {violation.subject for violation in failure.violations}
    for violation in failure.violations:
        reason, _, words = violation.description.partition(": ")
        assert violation.type
        assert reason.isupper()
        assert words
    assert refusal.message.startswith(f"{refusal.reason}: ")


def test_malformed_payloads_are_reported_with_pointers(
    channel: grpc.Channel, author: Author
) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    item = to_sign(author, "root-1", "root", author.root())
    item.payload = b'{"_type": "root"}'
    item.ClearField("payload_sha256")
    with refused() as refusal:
        stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    assert refusal.code == "INVALID_ARGUMENT"
    request = refusal.detail(BadRequest)
    assert isinstance(request, BadRequest)
    assert request.field_violations
    assert all(violation.reason.isupper() for violation in request.field_violations)


def test_request_fields_are_reported_all_at_once(channel: grpc.Channel) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    with refused() as refusal:
        stub.SignMetadata(
            signing_pb2.SignMetadataRequest(
                metadata=signing_pb2.MetadataToSign(key_sha256=b"short"), request_id="\u00e4"
            ),
            timeout=LIMIT_S,
        )
    request = refusal.detail(BadRequest)
    assert isinstance(request, BadRequest)
    assert [violation.field for violation in request.field_violations] == [
        "/metadata/key",
        "/metadata/payload",
        "/metadata/key_sha256",
        "/request_id",
    ]


def test_an_offline_token_is_unavailable_with_retry_info(
    place: Place, channel: grpc.Channel, author: Author
) -> None:
    place.token.failures.append(BackendUnavailable("TOKEN_OFFLINE", "wait", retry_after_s=1.5))
    item = to_sign(author, "root-1", "root", author.root())
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    with refused() as refusal:
        stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "TOKEN_OFFLINE")
    retry = refusal.detail(RetryInfo)
    assert isinstance(retry, RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5


def test_a_crash_tells_the_caller_only_where_to_look(
    place: Place, channel: grpc.Channel, author: Author
) -> None:
    def crash() -> None:
        raise ZeroDivisionError("secret 4711")

    place.token.before_sign = crash
    item = to_sign(author, "root-1", "root", author.root())
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    with refused() as refusal, capture_logs() as logs:
        stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
    crashed = next(entry for entry in logs if entry["event"] == "call_crashed")
    assert crashed["exceptions"] == ["builtins.ZeroDivisionError"]
    assert any(" crash" in place for place in crashed["traceback"])
    assert "4711" not in str(logs)
    assert "4711" not in str(refusal.status)
    assert "ZeroDivision" not in str(refusal.status)
    info = refusal.detail(ErrorInfo)
    assert isinstance(info, ErrorInfo)
    assert list(info.metadata) == ["call_id"]


def test_opaque_signatures(place: Place, channel: grpc.Channel) -> None:
    key = make_key(place.world, "layouts", content=Content.OPAQUE)
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    request = signing_pb2.SignOpaqueRequest(
        key="layouts", data=b"any bytes", data_sha256=hashlib.sha256(b"any bytes").digest()
    )
    made = stub.SignOpaque(request, timeout=LIMIT_S)
    public_keys.verify(key.public_der, key.scheme, b"any bytes", made.signature)
    assert (made.scheme, made.replayed) == ("ed25519", False)
    assert made.data_sha256 == request.data_sha256
    assert made.key_sha256 == bytes.fromhex(key.fingerprint)
    assert stub.SignOpaque(request, timeout=LIMIT_S).replayed
