"""Good requests of every method, to be bent: they concern the teams and keys kept for that alone.

`tests.daemon.BINS` and their key, and the token they are on, are named in none of them, so that
another client can go on signing for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from keyd.domain import canonical
from keyd_client import Client
from keyd_protos.v1 import audit_pb2, keys_pb2, repositories_pb2, signing_pb2, tokens_pb2
from tests.authors import Signed, Writer
from tests.daemon import OPAQUE_KEY, REPOSITORY
from tests.recording import Recorder

SPARE = "spare"
_MODULES = (audit_pb2, keys_pb2, repositories_pb2, signing_pb2, tokens_pb2, health_pb2)
_STATES = ("Suspend", "Resume", "Deactivate", "MarkCompromised", "Destroy")
_FOREIGN_KEY = {"keytype": "ed25519", "keyval": {"public": "ab" * 32}, "scheme": "ed25519"}


@dataclass(frozen=True)
class Method:
    """One method and its good requests."""

    path: str
    requests: tuple[Message, ...]
    streams_requests: bool
    streams_responses: bool


def every_method(client: Client, recorder: Recorder) -> list[Method]:
    """All methods that a daemon serves; keys are made on the token SPARE as needed."""
    for name in ("scratch", *(f"scratch-{state.lower()}" for state in _STATES)):
        client.keys.create(name, SPARE)
    built = {
        **_signing(recorder.writer),
        **_keys(client),
        **_tokens(),
        **_repositories(client, recorder.writer),
        **_audit(),
        "Check": (health_pb2.HealthCheckRequest(service="keyd.v1.SigningService"),),
        "List": (health_pb2.HealthListRequest(),),
        "Watch": (health_pb2.HealthCheckRequest(),),
    }
    methods = {method.name: method for module in _MODULES for method in _methods_of(module)}
    assert methods.keys() == built.keys(), methods.keys() ^ built.keys()
    return [_method(methods[name], requests) for name, requests in built.items()]


def _methods_of(module: ModuleType) -> list[MethodDescriptor]:
    services = module.DESCRIPTOR.services_by_name.values()
    return [method for service in services for method in service.methods]


def _method(descriptor: MethodDescriptor, requests: Sequence[Message]) -> Method:
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        requests=tuple(requests),
        streams_requests=descriptor.client_streaming,
        streams_responses=descriptor.server_streaming,
    )


Requests = Mapping[str, tuple[Message, ...]]


def _to_sign(role: str, signed: Signed, key: str = "") -> signing_pb2.MetadataToSign:
    return signing_pb2.MetadataToSign(
        key=key, repository=REPOSITORY, role=role, payload=canonical.encode(signed)
    )


def _signing(writer: Writer) -> Requests:
    teams = [_to_sign(team, writer.targets(1), team) for team in ("team-a", "team-b")]
    checked = {
        "root": writer.root(2),
        "targets": writer.delegating(2, **{"team-a": (1, ["team-a"])}),
        "snapshot": writer.snapshot(2),
        "timestamp": writer.timestamp(2),
        "team-a": writer.targets(2),
    }
    return {
        "SignMetadata": (
            signing_pb2.SignMetadataRequest(metadata=teams[0]),
            signing_pb2.SignMetadataRequest(metadata=teams[1], request_id="one"),
        ),
        "BatchSignMetadata": (signing_pb2.BatchSignMetadataRequest(items=teams),),
        "CheckMetadata": tuple(
            signing_pb2.CheckMetadataRequest(metadata=_to_sign(role, signed))
            for role, signed in checked.items()
        ),
        "GetSignature": (
            signing_pb2.GetSignatureRequest(repository=REPOSITORY, role="root", version=1),
        ),
        "SignOpaque": (signing_pb2.SignOpaqueRequest(key=OPAQUE_KEY, data=b"x", request_id="two"),),
    }


def _keys(client: Client) -> Requests:
    scratch = client.keys.get("scratch")
    return {
        "CreateKey": (
            keys_pb2.CreateKeyRequest(
                name="scratch", token=SPARE, scheme="ecdsa-sha2-nistp256", request_id="three"
            ),
        ),
        "GetKey": (keys_pb2.GetKeyRequest(name="scratch"),),
        "ListKeys": (keys_pb2.ListKeysRequest(page_size=2, page_token="scratch"),),
        "AdoptKey": (
            keys_pb2.AdoptKeyRequest(
                name="adopted",
                token=SPARE,
                cka_id=scratch.cka_id,
                scheme=scratch.scheme,
                content=keys_pb2.KEY_CONTENT_OPAQUE,
                key_sha256=scratch.key_sha256,
            ),
        ),
        **{
            name: (kind(name=f"scratch-{state.lower()}", comment="drill"),)
            for name, kind, state in (
                ("SuspendKey", keys_pb2.SuspendKeyRequest, "Suspend"),
                ("ResumeKey", keys_pb2.ResumeKeyRequest, "Resume"),
                ("DeactivateKey", keys_pb2.DeactivateKeyRequest, "Deactivate"),
                ("MarkKeyCompromised", keys_pb2.MarkKeyCompromisedRequest, "MarkCompromised"),
                ("DestroyKey", keys_pb2.DestroyKeyRequest, "Destroy"),
            )
        },
    }


def _tokens() -> Requests:
    return {
        "ListTokens": (tokens_pb2.ListTokensRequest(),),
        "WatchTokens": (tokens_pb2.WatchTokensRequest(),),
        "ListTokenKeys": (tokens_pb2.ListTokenKeysRequest(token=SPARE),),
        "UnlockToken": (
            tokens_pb2.UnlockTokenRequest(token=SPARE, pin=b"0000"),
            tokens_pb2.UnlockTokenRequest(token=SPARE, retry_configured=True),
        ),
        "QuarantineToken": (tokens_pb2.QuarantineTokenRequest(token=SPARE, comment="drill"),),
        "ReleaseToken": (tokens_pb2.ReleaseTokenRequest(token=SPARE, comment="over"),),
    }


def _repositories(client: Client, writer: Writer) -> Requests:
    rules = client.repositories.role_rules("team-a", REPOSITORY).rules
    files = {"root": writer.root(), "timestamp": writer.timestamp(), "snapshot": writer.snapshot()}
    contents = {role: _file(signed) for role, signed in files.items()}
    bootstrap = repositories_pb2.BootstrapRepositoryRequest(
        repository="second", root_keys=["scratch"], root_threshold=1, development=True
    )
    bootstrap.foreign_root_keys.add(tuf_key_json=json.dumps(_FOREIGN_KEY))
    return {
        "BootstrapRepository": (bootstrap,),
        "RegisterRepository": (
            repositories_pb2.RegisterRepositoryRequest(
                repository="third", root_files=[contents["root"]]
            ),
        ),
        "ListRepositories": (
            repositories_pb2.ListRepositoriesRequest(page_size=1, page_token=REPOSITORY),
        ),
        "GetRepositoryState": (repositories_pb2.GetRepositoryStateRequest(repository=REPOSITORY),),
        "GetRoleRules": (
            repositories_pb2.GetRoleRulesRequest(repository=REPOSITORY, role="team-a"),
        ),
        "SetRoleRules": (
            repositories_pb2.SetRoleRulesRequest(
                repository=REPOSITORY, role="team-a", rules=rules, comment="drill"
            ),
        ),
        "ImportMetadata": tuple(
            repositories_pb2.ImportMetadataRequest(
                repository=REPOSITORY,
                files=[repositories_pb2.MetadataFile(role=role, content=content)],
            )
            for role, content in contents.items()
        ),
    }


def _file(signed: Signed) -> bytes:
    signatures = [{"keyid": "ab" * 32, "sig": "cd" * 64}, {"keyid": "ef" * 32, "sig": ""}]
    return json.dumps({"signatures": signatures, "signed": signed}).encode()


def _audit() -> Requests:
    return {
        "ListEntries": (audit_pb2.ListEntriesRequest(start=1, page_size=3),),
        "GetCheckpoint": (audit_pb2.GetCheckpointRequest(),),
        "GetInclusionProof": (audit_pb2.GetInclusionProofRequest(index=1, size=5),),
        "GetConsistencyProof": (audit_pb2.GetConsistencyProofRequest(first=2, second=5),),
    }
