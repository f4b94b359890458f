"""The client: errors come back typed, answers about something else are not accepted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from keyd_client import Client, errors
from keyd_client.messages import as_dict, label
from keyd_protos.v1 import keys_pb2, repositories_pb2, signing_pb2, tokens_pb2
from tests.unit.sdk.scripted_daemon import Refusal, ScriptedDaemon

CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PolicyViolation,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Exhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.INTERNAL: errors.DaemonFault,
    grpc.StatusCode.DATA_LOSS: errors.DaemonFault,
}


def refuse(refusal: Refusal) -> Callable[[Any], Any]:
    def answer(request: object) -> object:
        raise refusal

    return answer


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_codes_become_types(
    client: Client, daemon: ScriptedDaemon, code: grpc.StatusCode, kind: type
) -> None:
    daemon.answers["GetKey"] = refuse(Refusal(code, "SOME_REASON", "do this", outcome="X"))
    with pytest.raises(errors.KeydClientError) as raised:
        client.keys.get("root-1")
    assert type(raised.value) is kind
    assert str(raised.value) == "SOME_REASON: do this"
    assert raised.value.details == {"outcome": "X"}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("VERSION_ALREADY_SIGNED_DIFFERENTLY", errors.Equivocation),
        ("CHANGE_NOT_CONFIRMED", errors.ChangeNotConfirmed),
        ("PIN_LOCKED", errors.PinRejected),
        ("QUORUM_UNAVAILABLE", errors.ApprovalRequired),
    ],
)
def test_reasons_refine_the_type(
    client: Client, daemon: ScriptedDaemon, reason: str, kind: type
) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    daemon.answers["GetKey"] = refuse(Refusal(code, reason, "do this"))
    with pytest.raises(errors.KeydClientError) as raised:
        client.keys.get("root-1")
    assert type(raised.value) is kind


def test_all_findings_come_along_and_are_named_in_the_line(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.answers["SignMetadata"] = refuse(
        Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "EXPIRED",
            "expires is past: set a later one (and 1 more finding)",
            violations=(
                ("A5", "EXPIRED", "/expires"),
                ("A7", "VERSION_NOT_INCREASING", "/version"),
            ),
        )
    )
    with pytest.raises(errors.PolicyViolation) as raised:
        client.sign_metadata("root-1", b"{}")
    assert raised.value.findings == (
        errors.Finding("EXPIRED", "/expires", "mend it: so", "A5"),
        errors.Finding("VERSION_NOT_INCREASING", "/version", "mend it: so", "A7"),
    )
    assert str(raised.value) == (
        "EXPIRED: expires is past: set a later one (also: VERSION_NOT_INCREASING at /version)"
    )


def spoiled(daemon: ScriptedDaemon, **wrong: Any) -> Callable[[Any], Any]:
    def answer(request: Any) -> Any:
        right = daemon.released(request.metadata)
        for name, value in wrong.items():
            setattr(right, name, value)
        return signing_pb2.SignMetadataResponse(signature=right)

    return answer


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"payload_sha256": bytes(32)}, "payload"),
        ({"payload_sha256": b""}, "payload"),
        ({"signature_sha256": bytes(32)}, "signature"),
        ({"signature": b"x"}, "signature"),
        ({"key_sha256": bytes(32)}, "key"),
        ({"repository": "other"}, "repository"),
        ({"role": "root"}, "role"),
    ],
)
def test_answers_about_something_else_are_refused(
    client: Client, daemon: ScriptedDaemon, wrong: dict[str, Any], what: str
) -> None:
    public_key = daemon.signers["root-1"].public_key
    daemon.answers["SignMetadata"] = spoiled(daemon, **wrong)
    with pytest.raises(errors.AnswerMismatch, match=f"ECHO_MISMATCH.* another {what}"):
        client.sign_metadata(
            "root-1", b"payload", public_key=public_key, repository="demo", role="targets"
        )


def test_what_is_sent_is_complete(client: Client, daemon: ScriptedDaemon) -> None:
    client.sign_metadata(
        "root-1", b"payload", repository="demo", role="root", confirmed_change=b"c" * 32
    )
    (request,) = daemon.of(signing_pb2.SignMetadataRequest)
    assert request.metadata == signing_pb2.MetadataToSign(
        key="root-1",
        repository="demo",
        role="root",
        payload=b"payload",
        payload_sha256=hashlib.sha256(b"payload").digest(),
        confirmed_change_sha256=b"c" * 32,
    )


@pytest.mark.parametrize("method", ["sign_metadata", "sign_opaque"])
def test_too_large_payloads_stay_here(client: Client, daemon: ScriptedDaemon, method: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="PAYLOAD_TOO_LARGE"):
        getattr(client, method)("root-1", bytes(3_750_001))
    assert not daemon.requests


def test_lists_follow_their_pages(client: Client, daemon: ScriptedDaemon) -> None:
    pages = {"": ["a", "b"], "b": ["c"], "c": []}

    def page(request: keys_pb2.ListKeysRequest) -> keys_pb2.ListKeysResponse:
        names = pages[request.page_token]
        return keys_pb2.ListKeysResponse(
            keys=[keys_pb2.Key(name=name) for name in names],
            next_page_token=names[-1] if names else "",
        )

    daemon.answers["ListKeys"] = page
    assert [key.name for key in client.keys.list()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "page",
    [
        keys_pb2.ListKeysResponse(keys=[keys_pb2.Key(name="a")], next_page_token="a"),
        keys_pb2.ListKeysResponse(next_page_token="b"),
    ],
    ids=["the same again", "nothing"],
)
def test_a_list_without_end_is_given_up(
    client: Client, daemon: ScriptedDaemon, page: keys_pb2.ListKeysResponse
) -> None:
    daemon.answers["ListKeys"] = lambda request: page
    with pytest.raises(errors.AnswerMismatch, match="LIST_ENDLESS"):
        list(client.keys.list())


def test_imports_are_cut_below_four_megabytes(client: Client, daemon: ScriptedDaemon) -> None:
    def take(request: Any) -> Any:
        files = [repositories_pb2.ImportedFile(role=file.role) for file in request.files]
        return repositories_pb2.ImportMetadataResponse(files=files)

    daemon.answers["ImportMetadata"] = take
    files = [(role, bytes(1_500_000)) for role in "abcde"]
    imported = client.repositories.import_metadata(files, "demo")
    assert [file.role for file in imported] == list("abcde")
    sent = daemon.of(repositories_pb2.ImportMetadataRequest)
    assert [len(request.files) for request in sent] == [2, 2, 1]


@pytest.mark.parametrize("content", ["", "log", "unspecified", "other"])
def test_a_key_is_for_tuf_or_opaque(client: Client, content: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="KEY_CONTENT_UNKNOWN"):
        client.keys.create("k", "t", content=content)


def test_a_repository_must_be_named_somewhere(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="REPOSITORY_MISSING"):
        client.repositories.state()


def test_messages_become_plain_data() -> None:
    token = tokens_pb2.Token(name="t", state=tokens_pb2.TOKEN_STATE_PIN_REQUIRED, schemes=["x"])
    token.since.FromSeconds(0)
    event = tokens_pb2.WatchTokensResponse(
        kind=tokens_pb2.WatchTokensResponse.KIND_PIN_WANTED, token=token
    )
    data = as_dict(event)
    assert data["kind"] == "PIN_WANTED"
    assert data["event_time"] is None
    assert data["token"]["state"] == label(token, "state") == "PIN_REQUIRED"
    assert data["token"]["since"] == "1970-01-01T00:00:00Z"
    assert data["token"]["schemes"] == ["x"]
    finding = signing_pb2.Finding(reason="R", details={"next_version": "8"})
    check = signing_pb2.CheckMetadataResponse(findings=[finding], change_sha256=b"\1\xff")
    assert as_dict(check)["findings"][0]["details"] == {"next_version": "8"}
    assert as_dict(check)["change_sha256"] == "01ff"
    assert label(keys_pb2.Key(), "state") == ""
    json.dumps(as_dict(check) | data)
