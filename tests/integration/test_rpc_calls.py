"""Every other service over a real socket: keys, tokens, repositories, the log, health."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from keyd.domain import canonical, public_keys
from keyd.domain.tokens import TokenState
from keyd.services.audit import ensure_log_key
from keyd_protos.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    repositories_pb2,
    repositories_pb2_grpc,
    signing_pb2,
    signing_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests.serving import LIMIT_S, Place, Serving, refused, serve, to_sign
from tests.worlds import Author, make_key


def test_keys_from_creation_to_retirement(channel: grpc.Channel) -> None:
    stub = keys_pb2_grpc.KeyServiceStub(channel)
    wanted = keys_pb2.CreateKeyRequest(name="online-1", token="soft", request_id="make-it")
    made = stub.CreateKey(wanted, timeout=LIMIT_S).key
    assert (made.name, made.token, made.scheme) == ("online-1", "soft", "ecdsa-sha2-nistp256")
    assert made.state == keys_pb2.KEY_STATE_PRE_ACTIVE
    assert made.content == keys_pb2.KEY_CONTENT_TUF
    assert made.public_key_pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert made.public_key_pem.endswith("\n")
    assert hashlib.sha256(made.tuf_key_json.encode()).hexdigest() == made.tuf_keyid
    assert stub.CreateKey(wanted, timeout=LIMIT_S).key == made
    with refused() as refusal:
        stub.CreateKey(keys_pb2.CreateKeyRequest(name="online-1", token="soft"), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "KEY_EXISTS")
    assert stub.GetKey(keys_pb2.GetKeyRequest(name="online-1"), timeout=LIMIT_S).key == made
    stub.CreateKey(
        keys_pb2.CreateKeyRequest(
            name="zz", token="soft", scheme="ed25519", content=keys_pb2.KEY_CONTENT_OPAQUE
        ),
        timeout=LIMIT_S,
    )
    page = stub.ListKeys(keys_pb2.ListKeysRequest(page_size=1), timeout=LIMIT_S)
    rest = stub.ListKeys(keys_pb2.ListKeysRequest(page_token=page.next_page_token), timeout=LIMIT_S)
    assert [key.name for key in (*page.keys, *rest.keys)] == ["online-1", "zz"]
    assert rest.next_page_token == ""
    suspend = keys_pb2.SuspendKeyRequest(name="zz", comment="holiday")
    assert stub.SuspendKey(suspend, timeout=LIMIT_S).key.state == keys_pb2.KEY_STATE_SUSPENDED
    resumed = stub.ResumeKey(keys_pb2.ResumeKeyRequest(name="zz"), timeout=LIMIT_S).key
    assert resumed.state == keys_pb2.KEY_STATE_ACTIVE
    retired = stub.DeactivateKey(keys_pb2.DeactivateKeyRequest(name="zz"), timeout=LIMIT_S).key
    assert retired.state == keys_pb2.KEY_STATE_DEACTIVATED
    stolen = stub.MarkKeyCompromised(
        keys_pb2.MarkKeyCompromisedRequest(name="zz"), timeout=LIMIT_S
    ).key
    assert stolen.state == keys_pb2.KEY_STATE_COMPROMISED
    with refused() as refusal:
        stub.DestroyKey(keys_pb2.DestroyKeyRequest(name="zz"), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "QUORUM_UNAVAILABLE")


def test_tokens(place: Place, channel: grpc.Channel) -> None:
    stub = tokens_pb2_grpc.TokenServiceStub(channel)
    key = make_key(place.world, "online-1")
    quarantine = tokens_pb2.QuarantineTokenRequest(token="soft", comment="smells of smoke")
    token = stub.QuarantineToken(quarantine, timeout=LIMIT_S).token
    assert (token.state, token.detail) == (tokens_pb2.TOKEN_STATE_QUARANTINED, "smells of smoke")
    token = stub.ReleaseToken(tokens_pb2.ReleaseTokenRequest(token="soft"), timeout=LIMIT_S).token
    assert token.state == tokens_pb2.TOKEN_STATE_ONLINE
    place.token.state = TokenState.PIN_REQUIRED
    listed = stub.ListTokens(tokens_pb2.ListTokensRequest(), timeout=LIMIT_S).tokens
    assert [token.state for token in listed] == [tokens_pb2.TOKEN_STATE_PIN_REQUIRED]
    for wanted in (
        tokens_pb2.UnlockTokenRequest(token="soft"),
        tokens_pb2.UnlockTokenRequest(token="soft", pin=b""),
        tokens_pb2.UnlockTokenRequest(token="soft", retry_configured=False),
        tokens_pb2.UnlockTokenRequest(token="soft", pin=b"1" * 256),
    ):
        with refused() as refusal:
            stub.UnlockToken(wanted, timeout=LIMIT_S)
        assert refusal.code == "INVALID_ARGUMENT"
    with capture_logs() as logs:
        unlocked = stub.UnlockToken(
            tokens_pb2.UnlockTokenRequest(token="soft", pin=b"40404711"), timeout=LIMIT_S
        )
    assert logs
    assert "40404711" not in str(logs)
    assert unlocked.token.state == tokens_pb2.TOKEN_STATE_ONLINE
    found = stub.ListTokenKeys(tokens_pb2.ListTokenKeysRequest(token="soft"), timeout=LIMIT_S)
    assert [(k.registered_as, k.key_sha256.hex()) for k in found.keys] == [
        ("online-1", key.fingerprint)
    ]


def test_repositories(channel: grpc.Channel, author: Author) -> None:
    stub = repositories_pb2_grpc.RepositoryServiceStub(channel)
    signing = signing_pb2_grpc.SigningServiceStub(channel)
    root = author.root()
    for key in ("root-1", "root-2"):
        item = to_sign(author, key, "root", root)
        signing.SignMetadata(signing_pb2.SignMetadataRequest(metadata=item), timeout=LIMIT_S)
    listed = stub.ListRepositories(
        repositories_pb2.ListRepositoriesRequest(), timeout=LIMIT_S
    ).repositories
    assert [(r.name, r.stage) for r in listed] == [
        ("demo", repositories_pb2.REPOSITORY_STAGE_ACTIVE)
    ]
    state = stub.GetRepositoryState(
        repositories_pb2.GetRepositoryStateRequest(repository="demo"), timeout=LIMIT_S
    )
    assert state.trusted_root == canonical.encode(root)
    roles = {role.role: role for role in state.roles}
    assert roles["root"].trusted_version == 1
    assert roles["root"].HasField("expire_time")
    assert (roles["targets"].next_version, roles["targets"].HasField("expire_time")) == (1, False)
    rules = stub.GetRoleRules(
        repositories_pb2.GetRoleRulesRequest(repository="demo", role="targets"), timeout=LIMIT_S
    )
    assert rules.defaults
    rules.rules.version_step_max = 7
    changed = repositories_pb2.SetRoleRulesRequest(
        repository="demo", role="targets", rules=rules.rules, comment="tighter"
    )
    assert stub.SetRoleRules(changed, timeout=LIMIT_S).rules == rules.rules
    changed.ClearField("rules")
    with refused() as refusal:
        stub.SetRoleRules(changed, timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "FIELD_REQUIRED")


def test_bootstrap_with_a_foreign_key_and_import(place: Place, channel: grpc.Channel) -> None:
    stub = repositories_pb2_grpc.RepositoryServiceStub(channel)
    keys = keys_pb2_grpc.KeyServiceStub(channel)
    made = keys.CreateKey(keys_pb2.CreateKeyRequest(name="r1", token="soft"), timeout=LIMIT_S).key
    elsewhere = make_key(place.world, "elsewhere")
    _, key_object = public_keys.tuf_key(elsewhere.public_der, elsewhere.scheme)
    foreign = repositories_pb2.ForeignKey(tuf_key_json=canonical.encode(key_object).decode())
    repository = stub.BootstrapRepository(
        repositories_pb2.BootstrapRepositoryRequest(
            repository="other",
            root_keys=[made.name],
            foreign_root_keys=[foreign],
            root_threshold=2,
        ),
        timeout=LIMIT_S,
    ).repository
    assert repository.stage == repositories_pb2.REPOSITORY_STAGE_BOOTSTRAP
    assert not repository.imported
    taken = stub.ImportMetadata(
        repositories_pb2.ImportMetadataRequest(
            repository="other",
            files=[repositories_pb2.MetadataFile(role="root", content=b"nonsense")],
        ),
        timeout=LIMIT_S,
    ).files
    assert [(file.recorded, bool(file.findings)) for file in taken] == [(False, True)]
    with refused() as refusal:
        stub.RegisterRepository(
            repositories_pb2.RegisterRepositoryRequest(
                repository="third", root_files=[b"nonsense"]
            ),
            timeout=LIMIT_S,
        )
    assert refusal.code == "INVALID_ARGUMENT"


def test_the_log(place: Place, channel: grpc.Channel) -> None:
    stub = audit_pb2_grpc.AuditServiceStub(channel)
    with refused() as refusal:
        stub.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=LIMIT_S)
    assert refusal.reason == "LOG_KEY_MISSING"
    ensure_log_key(place.world, "soft", LIMIT_S)
    head = stub.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=LIMIT_S)
    assert head.note.splitlines()[1] == str(head.size)
    assert head.verifier_key.count("+") >= 2
    page = stub.ListEntries(audit_pb2.ListEntriesRequest(page_size=2), timeout=LIMIT_S)
    assert [entry.index for entry in page.entries] == [0, 1]
    assert page.size >= head.size > 2
    leaf = page.entries[1]
    assert leaf.leaf_hash == hashlib.sha256(b"\0" + leaf.data).digest()
    proof = stub.GetInclusionProof(
        audit_pb2.GetInclusionProofRequest(index=1, size=2), timeout=LIMIT_S
    )
    assert (list(proof.hashes), proof.leaf_hash) == ([page.entries[0].leaf_hash], leaf.leaf_hash)
    consistency = stub.GetConsistencyProof(
        audit_pb2.GetConsistencyProofRequest(first=1, second=2), timeout=LIMIT_S
    )
    assert list(consistency.hashes) == [leaf.leaf_hash]
    for wrong in (
        audit_pb2.GetInclusionProofRequest(index=5, size=3),
        audit_pb2.GetInclusionProofRequest(index=2**64 - 1, size=2**64 - 1),
    ):
        with refused() as refusal:
            stub.GetInclusionProof(wrong, timeout=LIMIT_S)
        assert refusal.code == "INVALID_ARGUMENT"


def test_health_of_the_daemon_and_of_tokens(place: Place, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def status(service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(stub.Check(request, timeout=LIMIT_S).status)

    serving = health_pb2.HealthCheckResponse.SERVING
    assert (status(""), status("keyd.v1.Token/soft")) == (serving, serving)
    place.token.state = TokenState.OFFLINE
    assert status("") == serving
    assert status("keyd.v1.Token/soft") == health_pb2.HealthCheckResponse.NOT_SERVING
    with refused() as refusal:
        status("keyd.v1.Token/none")
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "HEALTH_SERVICE_UNKNOWN")
    listed = stub.List(health_pb2.HealthListRequest(), timeout=LIMIT_S)
    assert set(listed.statuses) == {"", "keyd.v1.Token/soft"}


def test_watching(place: Place) -> None:
    with serve(place) as serving:
        channel = serving.local()
        tokens = tokens_pb2_grpc.TokenServiceStub(channel)
        events = tokens.WatchTokens(tokens_pb2.WatchTokensRequest(), timeout=LIMIT_S)
        first = next(events)
        assert first.kind == tokens_pb2.WatchTokensResponse.KIND_STATE_CHANGED
        assert (first.token.name, first.token.state) == ("soft", tokens_pb2.TOKEN_STATE_ONLINE)
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="keyd.v1.Token/soft")
        statuses = health.Watch(request, timeout=LIMIT_S)
        assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
        place.token.state = TokenState.OFFLINE
        assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
        events.cancel()
        statuses.cancel()


@pytest.mark.parametrize("method", ["KeyService/GetKey", "TokenService/WatchTokens"])
def test_a_call_without_a_request(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.stream_stream(f"/keyd.v1.{method}")
    with refused() as refusal:
        list(call(iter(()), timeout=LIMIT_S))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_MISSING")


def test_servers_start_all_or_none(place: Place) -> None:
    serving: Serving = serve(place, place.admin, place.release)
    with serving:
        assert len(serving.targets) == 2
    assert not place.admin.path.exists()
    assert not place.release.path.exists()
