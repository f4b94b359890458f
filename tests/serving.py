"""Real servers over a real ledger and software tokens, and channels to reach them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from keyd.domain import canonical
from keyd.domain.methods import METHODS
from keyd.domain.policy import Grant, Policy
from keyd.rpc.server import Listener, RpcServers, ServerOptions, TcpListener, UnixListener
from keyd.services.world import World
from keyd_protos.v1 import signing_pb2
from tests.authors import Signed
from tests.certificates import Authority, Issued
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.worlds import Author, open_world

ADMIN = "unix:admin"
RELEASE = "unix:release"
CI = "spiffe://example.org/ci"
STRANGER = "spiffe://example.org/stranger"
# For calls that are to succeed at once, on a machine that may be busy.
LIMIT_S = 20.0


class LiveClock(TestClock):
    """Real time: certificates and deadlines follow it."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class ChangingPolicy:
    """A policy that a test replaces."""

    policy: Policy

    def current(self) -> Policy:
        return self.policy


def grant_all(*principals: str) -> Grant:
    """Everything that a policy can allow."""
    return grant(principals, METHODS)


def grant(principals: Sequence[str], methods: Sequence[str] | Mapping[str, Any]) -> Grant:
    """These methods on all resources."""
    return Grant(
        name="granted",
        line=1,
        principals=frozenset(principals),
        methods=frozenset(methods),
        any_repository=True,
        any_role=True,
        any_key=True,
        any_token=True,
    )


@dataclass
class Place:
    """A world with one token "soft", and the directories around it."""

    directory: Path
    sockets: Path
    world: World
    token: SoftwareToken
    policy: ChangingPolicy
    authority: Authority = field(default_factory=Authority)

    @property
    def admin(self) -> UnixListener:
        return UnixListener(self.sockets / "admin" / "s", "admin", administrator=True)

    @property
    def release(self) -> UnixListener:
        return UnixListener(self.sockets / "release" / "s", "release")

    def tcp(self) -> TcpListener:
        """mTLS on a free port; its files are made on first use."""
        certificate, key = self.directory / "server.pem", self.directory / "server.key"
        ca, revoked = self.directory / "ca.pem", self.directory / "revoked"
        if not certificate.exists():
            self.authority.server().write(self.directory, "server")
            ca.write_bytes(self.authority.certificate)
            revoked.write_text("")
        return TcpListener("127.0.0.1:0", certificate, key, ca, revoked)

    def revoke(self, issued: Issued) -> None:
        """Put a certificate on the list, as an operator would."""
        path = self.directory / "revoked"
        path.with_suffix(".new").write_text(path.read_text() + f"serial:{issued.serial}\n")
        path.with_suffix(".new").rename(path)


def make_place(directory: Path, sockets: Path) -> Place:
    """A new world whose policy gives the administrator, release and CI everything."""
    directory.mkdir(exist_ok=True)
    clock = LiveClock()
    token = SoftwareToken("soft", clock)
    policy = ChangingPolicy(Policy("0" * 64, (grant_all(ADMIN, RELEASE, f"uri:{CI}"),)))
    world = open_world(directory, clock=clock, tokens=FakeTokens(token))
    world = World(world.ledger, world.tokens, clock, policy, world.denials)
    return Place(directory, sockets, world, token, policy)


@dataclass
class Serving:
    """Running servers; leaving the `with` block stops them and closes every channel."""

    servers: RpcServers
    place: Place
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def targets(self) -> tuple[str, ...]:
        return self.servers.addresses()

    def local(self, number: int = 0, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A channel of its own to the Unix listener with this number."""
        fresh = [("grpc.use_local_subchannel_pool", 1), *options]
        return self._stack.enter_context(grpc.insecure_channel(self.targets[number], fresh))

    def mtls(self, client: Issued | None, *, trust: bytes | None = None) -> grpc.Channel:
        """A channel of its own to the last listener, which must be the TCP one."""
        credentials = grpc.ssl_channel_credentials(
            trust or self.place.authority.certificate,
            client.key if client else None,
            client.certificate if client else None,
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.secure_channel(self.targets[-1], credentials, options)
        return self._stack.enter_context(channel)

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.servers.stop(grace_s=5)


def serve(place: Place, *listeners: Listener, options: ServerOptions | None = None) -> Serving:
    """Start servers; by default on the administrator's socket alone."""
    servers = RpcServers(place.world, listeners or (place.admin,), options)
    servers.start()
    return Serving(servers, place)


def to_sign(author: Author, key: str, role: str, signed: Signed) -> signing_pb2.MetadataToSign:
    """A whole item: canonical payload, and every digest that a caller may give."""
    payload = canonical.encode(signed)
    return signing_pb2.MetadataToSign(
        key=key,
        key_sha256=bytes.fromhex(author.keys[key].fingerprint),
        repository=author.repository,
        role=role,
        payload=payload,
        payload_sha256=hashlib.sha256(payload).digest(),
    )


@contextmanager
def refused() -> Iterator[Refusal]:
    """Expect the block's call to fail; tells code, message and details."""
    refusal = Refusal()
    try:
        yield refusal
    except grpc.RpcError as error:
        refusal.read(error)
    else:
        raise AssertionError("the call succeeded")


class Refusal:
    """How a call failed."""

    def __init__(self) -> None:
        self.code = ""
        self.message = ""
        self.status = Status()

    def read(self, error: Any) -> None:
        """Take over what a failed call tells; it is a `grpc.Call` besides."""
        self.code = error.code().name
        self.message = error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                self.status = Status.FromString(value)

    @property
    def reason(self) -> str:
        """The ErrorInfo's; "" if the failure came from gRPC itself."""
        info = self.detail(ErrorInfo)
        return info.reason if isinstance(info, ErrorInfo) else ""

    def detail(self, kind: type[Message]) -> Message | None:
        for packed in self.status.details:
            message = kind()
            if packed.Is(kind.DESCRIPTOR) and packed.Unpack(message):
                return message
        return None
