"""Every method for every identity against verdicts written by hand (tests/vectors)."""

from __future__ import annotations

import pkgutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]

import keyd_protos.v1
from keyd.config.policy_file import parse_policy
from keyd.domain import approval, canonical, dsse, operations, receipts
from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Content
from keyd.domain.methods import MAY_TOUCH
from keyd.domain.methods import METHODS as TOUCHED
from keyd.domain.operations import VoidReservation
from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.changes import ChangeSet, RotationKind
from keyd.domain.rotation.plan import Plan
from keyd.ports import Transaction
from keyd.rpc.revocation import RevocationList
from keyd.rpc.server import RpcServers, ServerOptions, UnixListener
from keyd_protos.v1 import (
    audit_pb2,
    keys_pb2,
    officers_pb2,
    proposals_pb2,
    repositories_pb2,
    rotations_pb2,
    signing_pb2,
    tokens_pb2,
)
from tests.certificates import Authority, Issued
from tests.serving import CI, STRANGER, Place, Serving, make_place, refused, serve
from tests.tally import Promise, tallied
from tests.worlds import ADMIN, SIGNER, Author, allow_all, make_key, new_author

TABLE = tomllib.loads((Path(__file__).parent.parent / "vectors" / "method_matrix.toml").read_text())
METHODS: Mapping[str, Mapping[str, Mapping[str, str]]] = TABLE["methods"]
WITH_IDENTITY = ("admin", "plain", "ci", "stranger")
WITHOUT_IDENTITY = ("revoked", "expired", "wrong_ca", "no_certificate")
IDENTITIES = (*WITH_IDENTITY, *WITHOUT_IDENTITY)
# What an authorised call may come to besides success: later checks than who may call.
AFTERWARDS = {"OK", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNAVAILABLE"}
LIMIT_S = 20.0
ROLE = {"admin": "targets", "plain": "targets", "ci": "snapshot"}


def existing_methods() -> dict[str, MethodDescriptor]:
    """All methods of all services that the daemon could serve, by path without the first "/"."""
    names = [module.name for module in pkgutil.iter_modules(keyd_protos.v1.__path__)]
    modules = [import_module(f"keyd_protos.v1.{n}") for n in names if n.endswith("_pb2")]
    files: list[FileDescriptor] = [module.DESCRIPTOR for module in modules]
    files += [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    return {
        f"{service.full_name}/{method.name}": method
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


@dataclass
class Matrix:
    """A running daemon and one channel for each identity."""

    author: Author
    channels: dict[str, grpc.Channel]

    def verdict(self, identity: str, path: str, request: Message) -> str:
        """What becomes of one call."""
        code, reason = self._outcome(self.channels[identity], path, request)
        match code, reason:
            case "PERMISSION_DENIED", "POLICY_DENIES":
                return "deny"
            case "PERMISSION_DENIED", "LOCAL_ADMINISTRATOR_ONLY":
                return "local"
            case "UNIMPLEMENTED", "METHOD_UNKNOWN":
                return "unknown"
            case "UNAUTHENTICATED", "CERTIFICATE_REVOKED":
                return "nobody"
            case "UNAVAILABLE", "":
                # Without details it is gRPC's own word: the handshake failed.
                return "nobody"
        return "allow" if code in AFTERWARDS else f"{code} {reason}"

    def _outcome(self, channel: grpc.Channel, path: str, request: Message) -> tuple[str, str]:
        method = existing_methods().get(path)
        streams = method is None or method.server_streaming
        response: Any = Empty if method is None else GetMessageClass(method.output_type)
        call: Any = channel.stream_stream(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        answers = call(iter([request]), timeout=LIMIT_S)
        try:
            next(answers)
            if streams:
                answers.cancel()
        except grpc.RpcError as error:
            return _read(error)
        except StopIteration:
            pass
        return "OK", ""


def _read(error: Any) -> tuple[str, str]:
    info = ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            Status.FromString(value).details[0].Unpack(info)
    return error.code().name, info.reason


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with tempfile.TemporaryDirectory(prefix="keyd-", dir="/tmp") as sockets:
        place = make_place(tmp_path_factory.mktemp("matrix") / "state", Path(sockets))
        place.policy.policy = parse_policy(TABLE["policy"].encode(), Path("method_matrix.toml"))
        author = prepared(place)
        plain = UnixListener(place.sockets / "plain" / "s", "plain")
        listeners = place.admin, plain, place.tcp()
        revoked = place.authority.client(uris=[CI])
        place.revoke(revoked)
        servers = RpcServers(place.world, listeners, ServerOptions(reflection=True))
        servers.start()
        with Serving(servers, place) as serving:
            yield Matrix(author, channels(serving, revoked))
        place.world.ledger.close()


def prepared(place: Place) -> Author:
    """Two repositories, so that "elsewhere" exists and a denial is no mere NOT_FOUND."""
    granting = place.policy.policy
    place.policy.policy = allow_all(ADMIN.principal, SIGNER.principal)
    author = new_author(place.world)
    new_author(place.world, "other", prefix="other-")
    for name in ("spare", "elsewhere"):
        make_key(place.world, name)
    for name in ("layouts", "more-layouts"):
        make_key(place.world, name, content=Content.OPAQUE)
    for repository in ("demo", "other"):
        place.world.ledger.transact(begun_rotation(place, repository))
        place.world.ledger.transact(open_proposal(place, repository))
    place.policy.policy = granting
    return author


def begun_rotation(place: Place, repository: str) -> Callable[[Transaction], None]:
    """A rotation of nothing, known by the repository's name."""
    plan = Plan(ChangeSet(RotationKind.ROOT, repository), (), (), (), ())
    now = place.world.clock.now()

    def work(tx: Transaction) -> None:
        leaf = tx.append(Entry(Event.ROTATION_STARTED, now, ADMIN.principal))
        tx.put_rotation(
            Rotation(
                name=f"r-{repository}",
                repository=repository,
                kind="ROOT",
                plan=plan.raw,
                plan_digest=plan.digest,
                creator=ADMIN.principal,
                grace_s=0,
                leaf=leaf,
                created_at=now,
            )
        )

    return work


def about(repository: str) -> VoidReservation:
    return VoidReservation(repository, "targets", 0, 1, "0" * 64, 0)


def open_proposal(place: Place, repository: str) -> Callable[[Transaction], None]:
    """A proposal that nobody can approve any more, known by the repository's name."""
    now = place.world.clock.now().replace(microsecond=0)
    operation = about(repository)

    def work(tx: Transaction) -> None:
        tx.put_proposal(
            Proposal(
                name=f"p-{repository}",
                kind=operation.kind,
                operation=operations.encode(operation),
                operation_sha256=operations.digest(operation),
                payload=b"",
                payload_sha256="",
                proposer=ADMIN.principal,
                officer="",
                rules=(),
                officers_sha256="0" * 64,
                policy_revision="0" * 64,
                created_at=now,
                expires_at=now + timedelta(days=1),
                state=ProposalState.OPEN,
                leaf=tx.append(Entry(Event.PROPOSAL_CREATED, now, ADMIN.principal)),
            )
        )

    return work


def channels(serving: Serving, revoked: Issued) -> dict[str, grpc.Channel]:
    authority = serving.place.authority
    past = timedelta(days=-2), timedelta(days=-1)
    clients: dict[str, Issued | None] = {
        "ci": authority.client(uris=[CI]),
        "stranger": authority.client(uris=[STRANGER]),
        "revoked": revoked,
        "expired": authority.client(uris=[CI], validity=past),
        "wrong_ca": Authority().client(uris=[CI]),
        "no_certificate": None,
    }
    local = {"admin": serving.local(0), "plain": serving.local(1)}
    return local | {name: serving.mtls(client) for name, client in clients.items()}


def to_sign(author: Author, identity: str, where: str) -> signing_pb2.MetadataToSign:
    role = ROLE.get(identity, "targets") if where == "here" else "timestamp"
    signed = {
        "targets": author.targets(),
        "snapshot": author.snapshot(),
        "timestamp": author.timestamp(),
    }
    return signing_pb2.MetadataToSign(
        key=role, repository="demo", role=role, payload=canonical.encode(signed[role])
    )


Build = Callable[[Author, str, str], Message]


def _key(kind: type[Message]) -> Build:
    return lambda _author, _identity, where: kind(name="spare" if where == "here" else "elsewhere")


def _token(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        token="soft" if where == "here" else "none", **more
    )


def _repository(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        repository="demo" if where == "here" else "other", **more
    )


def _role(kind: type[Message], **more: Any) -> Build:
    return lambda _author, identity, where: kind(
        repository="demo",
        role=ROLE.get(identity, "targets") if where == "here" else "timestamp",
        **more,
    )


def _plain(message: Message) -> Build:
    return lambda _author, _identity, _where: message


def _rotation(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        rotation="r-demo" if where == "here" else "r-other", **more
    )


def _change(kind: type[Message]) -> Build:
    return lambda _author, _identity, where: kind(
        change=rotations_pb2.RotationChange(
            kind=rotations_pb2.ROTATION_KIND_ROOT,
            repository="demo" if where == "here" else "other",
        )
    )


def _proposal(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        proposal="p-demo" if where == "here" else "p-other", **more
    )


# Well-formed, and about nothing that there is.
RECEIPT = dsse.encode(
    dsse.Envelope(
        receipts.PAYLOAD_TYPE,
        canonical.encode(
            {"daemon": "", "rotation": "r-demo", "role": "root", "epoch": 0, "version": 1}
        ),
        "0",
        b"x",
    )
)
DECISION = dsse.encode(
    dsse.Envelope(
        approval.PAYLOAD_TYPE,
        approval.Statement(
            "nobody",
            approval.Decision.APPROVE,
            approval.Basis("", "p-nothing", "", "", "", "", "", "", ""),
        ).encode(),
        "0",
        b"x",
    )
)
RULES = repositories_pb2.RoleRules(
    expiry_max_s=1000, payload_max_bytes=1000, threshold_floor=1, keyid_formula="either"
)
FILE = repositories_pb2.MetadataFile(role="targets", content=b"{}")
REQUESTS: Mapping[str, Build] = {
    "SignMetadata": lambda author, identity, where: signing_pb2.SignMetadataRequest(
        metadata=to_sign(author, identity, where)
    ),
    "BatchSignMetadata": lambda author, identity, where: signing_pb2.BatchSignMetadataRequest(
        items=[to_sign(author, identity, where)]
    ),
    "CheckMetadata": lambda author, identity, where: signing_pb2.CheckMetadataRequest(
        metadata=to_sign(author, identity, where)
    ),
    "GetSignature": _role(signing_pb2.GetSignatureRequest, version=1),
    "SignOpaque": lambda _author, _identity, where: signing_pb2.SignOpaqueRequest(
        key="layouts" if where == "here" else "more-layouts", data=b"x"
    ),
    "CreateKey": lambda _author, _identity, where: keys_pb2.CreateKeyRequest(
        name="targets" if where == "here" else "elsewhere", token="soft"
    ),
    "AdoptKey": lambda _author, _identity, where: keys_pb2.AdoptKeyRequest(
        name="targets" if where == "here" else "elsewhere", token="soft", cka_id=b"none"
    ),
    "GetKey": _key(keys_pb2.GetKeyRequest),
    "ListKeys": _plain(keys_pb2.ListKeysRequest()),
    "SuspendKey": _key(keys_pb2.SuspendKeyRequest),
    "ResumeKey": _key(keys_pb2.ResumeKeyRequest),
    "DeactivateKey": _key(keys_pb2.DeactivateKeyRequest),
    "MarkKeyCompromised": _key(keys_pb2.MarkKeyCompromisedRequest),
    "DestroyKey": _key(keys_pb2.DestroyKeyRequest),
    "ListTokens": _plain(tokens_pb2.ListTokensRequest()),
    "UnlockToken": _token(tokens_pb2.UnlockTokenRequest, pin=b"1234"),
    "QuarantineToken": _token(tokens_pb2.QuarantineTokenRequest, comment="test"),
    "ReleaseToken": _token(tokens_pb2.ReleaseTokenRequest),
    "WatchTokens": _plain(tokens_pb2.WatchTokensRequest()),
    "ListTokenKeys": _token(tokens_pb2.ListTokenKeysRequest),
    "BootstrapRepository": _repository(
        repositories_pb2.BootstrapRepositoryRequest, root_keys=["targets"], root_threshold=1
    ),
    "RegisterRepository": lambda author, _identity, where: (
        repositories_pb2.RegisterRepositoryRequest(
            repository="demo" if where == "here" else "other",
            root_files=[canonical.encode({"signatures": [], "signed": author.root()})],
        )
    ),
    "ListRepositories": _plain(repositories_pb2.ListRepositoriesRequest()),
    "GetRepositoryState": _repository(repositories_pb2.GetRepositoryStateRequest),
    "GetRoleRules": _role(repositories_pb2.GetRoleRulesRequest),
    "SetRoleRules": _role(repositories_pb2.SetRoleRulesRequest, rules=RULES),
    "ImportMetadata": _repository(repositories_pb2.ImportMetadataRequest, files=[FILE]),
    "PlanRotation": _change(rotations_pb2.PlanRotationRequest),
    "StartRotation": _change(rotations_pb2.StartRotationRequest),
    "GetRotation": _rotation(rotations_pb2.GetRotationRequest),
    "ListRotations": _repository(rotations_pb2.ListRotationsRequest),
    "ContinueRotation": _rotation(rotations_pb2.ContinueRotationRequest),
    "CancelRotation": _rotation(rotations_pb2.CancelRotationRequest),
    "GetReceipt": _rotation(rotations_pb2.GetReceiptRequest),
    "UploadSignature": _rotation(
        rotations_pb2.UploadSignatureRequest, receipt=RECEIPT, keyid="0", signature=b"x"
    ),
    "GetFiles": _rotation(rotations_pb2.GetFilesRequest),
    "ConfirmPublished": _rotation(rotations_pb2.ConfirmPublishedRequest),
    "EnrolFirstOfficers": _plain(officers_pb2.EnrolFirstOfficersRequest(threshold=2)),
    "ListOfficers": _plain(officers_pb2.ListOfficersRequest()),
    "CreateProposal": lambda _author, _identity, where: proposals_pb2.CreateProposalRequest(
        operation=operations.encode(about("demo" if where == "here" else "other"))
    ),
    "ListProposals": _plain(proposals_pb2.ListProposalsRequest()),
    "GetProposal": _proposal(proposals_pb2.GetProposalRequest),
    "DecideProposal": _proposal(proposals_pb2.DecideProposalRequest, envelope=DECISION),
    "CancelProposal": _proposal(proposals_pb2.CancelProposalRequest),
    "ExecuteProposal": _proposal(proposals_pb2.ExecuteProposalRequest),
    "ListEntries": _plain(audit_pb2.ListEntriesRequest()),
    "GetCheckpoint": _plain(audit_pb2.GetCheckpointRequest()),
    "GetInclusionProof": _plain(audit_pb2.GetInclusionProofRequest(index=0, size=1)),
    "GetConsistencyProof": _plain(audit_pb2.GetConsistencyProofRequest(first=1, second=2)),
    "Check": _plain(health_pb2.HealthCheckRequest()),
    "Watch": _plain(health_pb2.HealthCheckRequest()),
    "List": _plain(health_pb2.HealthListRequest()),
    "ServerReflectionInfo": _plain(reflection_pb2.ServerReflectionRequest(list_services="")),
    "ExportKey": _plain(Empty()),
}


def expected(identity: str, path: str, where: str) -> str:
    """The table's word."""
    if identity in WITHOUT_IDENTITY:
        return "nobody"
    if identity == "stranger":
        return str(TABLE["stranger"].get(path, "deny"))
    return METHODS[path][where][identity]


def mismatches(matrix: Matrix, path: str) -> list[str]:
    """Every identity's call of one method that ends otherwise than the table says."""
    build = REQUESTS[path.rpartition("/")[2]]
    wrong = []
    for where in METHODS[path]:
        for name in IDENTITIES:
            request = build(matrix.author, name, where)
            found, wanted = matrix.verdict(name, path, request), expected(name, path, where)
            if found != wanted:
                wrong.append(f"{path} {where} by {name}: {found}, not {wanted}")
    return wrong


def test_every_method_has_verdicts_and_every_verdict_an_identity() -> None:
    missing = set(existing_methods()) - set(METHODS)
    assert not missing, f"write verdicts for {sorted(missing)} into method_matrix.toml"
    named = [*METHODS.values(), TABLE["items"]]
    assert all(
        set(verdicts) == {"admin", "plain", "ci"} for row in named for verdicts in row.values()
    )
    unknown = set(METHODS) - set(existing_methods())
    assert all(METHODS[path]["here"]["admin"] == "unknown" for path in unknown)
    assert set(TABLE["stranger"]) <= set(METHODS)


def test_methods_that_touch_something_are_tried_elsewhere_too() -> None:
    """A method whose grant names resources must have verdicts for other resources."""
    for path in set(existing_methods()) - {"keyd.v1.SigningService/BatchSignMetadata"}:
        service, _, name = path.rpartition(".")[2].partition("/")
        touched = TOUCHED[f"{service}.{name}"] | MAY_TOUCH.get(f"{service}.{name}", frozenset())
        # A list of proposals leaves out what is elsewhere.
        expected = bool(touched) and name != "ListProposals"
        assert ("elsewhere" in METHODS[path]) == expected, path


@pytest.mark.parametrize("path", sorted(METHODS))
def test_verdicts(matrix: Matrix, path: str) -> None:
    with tallied(Promise.DENY_BY_DEFAULT, "method called by an identity") as tally:
        tally.injected(len(METHODS[path]) * len(IDENTITIES))
        assert mismatches(matrix, path) == []


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("name", ["admin", "plain", "ci"])
def test_each_item_of_a_batch_is_judged(matrix: Matrix, name: str, where: str) -> None:
    call: Any = matrix.channels[name].stream_stream(
        "/keyd.v1.SigningService/BatchSignMetadata",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=signing_pb2.BatchSignMetadataResponse.FromString,
    )
    item = to_sign(matrix.author, name, where)
    chunk = signing_pb2.BatchSignMetadataRequest(items=[item])
    (answer,) = call(iter([chunk]), timeout=LIMIT_S)
    denied = grpc.StatusCode.PERMISSION_DENIED.value[0]
    found = "deny" if answer.results[0].error.code == denied else "allow"
    assert found == TABLE["items"][where][name]


def no_first_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.rpc.gate.authorise_method", lambda _world, _call: None)


def no_second_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("keys", "key_creation", "tokens", "repositories", "audit", "check", "imports"):
        monkeypatch.setattr(
            f"keyd.services.{service}.demand", lambda _world, _caller, _action: None
        )


def no_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RevocationList, "check", lambda _self, _peer: None)


def everybody_administrates(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("repositories", "registration"):
        monkeypatch.setattr(
            f"keyd.services.{service}.demand_administrator", lambda _world, _caller, _action: None
        )


@pytest.mark.parametrize(
    ("remove", "path"),
    [
        (no_first_gate, "grpc.health.v1.Health/List"),
        (no_first_gate, "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
        (no_second_gate, "keyd.v1.KeyService/GetKey"),
        (no_second_gate, "keyd.v1.TokenService/ListTokenKeys"),
        (no_second_gate, "keyd.v1.RepositoryService/GetRepositoryState"),
        (no_revocation, "keyd.v1.KeyService/GetKey"),
        (everybody_administrates, "keyd.v1.RepositoryService/SetRoleRules"),
        (everybody_administrates, "keyd.v1.RepositoryService/RegisterRepository"),
    ],
)
def test_a_removed_check_is_noticed(
    matrix: Matrix,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
    path: str,
) -> None:
    remove(monkeypatch)
    assert mismatches(matrix, path)


def test_reflection_is_off_by_default(place: Place) -> None:
    with serve(place) as serving:
        call: Any = serving.local().stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
        )
        with refused() as refusal:
            list(call(iter([reflection_pb2.ServerReflectionRequest()]), timeout=LIMIT_S))
        assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
