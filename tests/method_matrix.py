"""A daemon with one channel for each identity, and the verdicts of tests/vectors on its methods."""

from __future__ import annotations

import pkgutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]

import keyd_protos.v1
from keyd.config.policy_file import parse_policy
from keyd.domain import operations
from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Content
from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.changes import ChangeSet, RotationKind
from keyd.domain.rotation.plan import Plan
from keyd.ports import Transaction
from keyd.rpc.server import RpcServers, ServerOptions, UnixListener
from tests.certificates import Authority, Issued
from tests.method_requests import REQUESTS, about
from tests.serving import CI, LIMIT_S, STRANGER, Place, Refusal, Serving, make_place
from tests.worlds import ADMIN, SIGNER, Author, allow_all, make_key, new_author

TABLE = tomllib.loads((Path(__file__).parent / "vectors" / "method_matrix.toml").read_text())
METHODS: Mapping[str, Mapping[str, Mapping[str, str]]] = TABLE["methods"]
WITH_IDENTITY = ("admin", "plain", "ci", "stranger")
WITHOUT_IDENTITY = ("revoked", "expired", "wrong_ca", "no_certificate")
IDENTITIES = (*WITH_IDENTITY, *WITHOUT_IDENTITY)
# What an authorised call may come to besides success: later checks than who may call.
AFTERWARDS = {"OK", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNAVAILABLE"}


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
            refusal = Refusal()
            refusal.read(error)
            return refusal.code, refusal.reason
        except StopIteration:
            pass
        return "OK", ""


@contextmanager
def open_matrix(directory: Path, sockets: Path) -> Iterator[Matrix]:
    """Serve it; `sockets` needs a short name."""
    place = make_place(directory, sockets)
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
