"""The gRPC servers of one daemon: one per listening address, sharing servicers and drain.

Python's gRPC cannot tell a handler on which of a server's sockets a call came in, and the socket
*is* the identity of a local caller; hence a server for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import structlog

from keyd.rpc import limits, sockets
from keyd.rpc.contract import all_methods
from keyd.rpc.drain import Drain
from keyd.rpc.gate import Gate, Gatekeeping
from keyd.rpc.interceptors.identity import Identify, certificate_identity, socket_identity
from keyd.rpc.lanes import Lane, LaneName, make_lanes
from keyd.rpc.method import Method
from keyd.rpc.options import CannotListen, Listener, ServerOptions, TcpListener, UnixListener
from keyd.rpc.quotas import Quotas
from keyd.rpc.revocation import RevocationList
from keyd.rpc.tls import ServerTLS
from keyd.rpc.watchdog import Watchdog
from keyd.services.world import World

_log = structlog.get_logger("keyd.rpc")

__all__ = [
    "CannotListen",
    "Listener",
    "RpcServers",
    "ServerOptions",
    "TcpListener",
    "UnixListener",
]


@dataclass
class _Bound:
    """One listening address and what belongs to it."""

    listener: Listener
    server: grpc.Server
    lanes: Mapping[LaneName, Lane]
    address: str
    tls: ServerTLS | None = None
    socket_identity: tuple[int, int] | None = None


class RpcServers:
    """All listening addresses of a daemon.

    `start` binds every address before it serves the first; `stop` is final. Not for use by several
    threads, except `addresses`.
    """

    def __init__(
        self, world: World, listeners: Sequence[Listener], options: ServerOptions | None = None
    ) -> None:
        self._world = world
        self._listeners = tuple(listeners)
        self._options = options or ServerOptions()
        self._drain = Drain()
        self._watchdog = Watchdog()
        self._methods: Mapping[str, Method] = all_methods(world, self._options, self._drain)
        self._bound: list[_Bound] = []

    def start(self) -> None:
        """Bind and serve. Raises: CannotListen; then nothing listens."""
        try:
            for listener in self._listeners:
                self._bind(listener)
        except CannotListen:
            self._abandon()
            raise
        self._watchdog.start()
        for bound in self._bound:
            bound.server.start()
            _log.info("rpc_listening", address=bound.address)

    def addresses(self) -> tuple[str, ...]:
        """gRPC targets in the order of the listeners: "unix:/path" or "host:port" as bound."""
        return tuple(bound.address for bound in self._bound)

    def read_tls(self) -> Callable[[], None]:
        """Read certificates, keys and client authorities of all TCP listeners again.

        What it returns puts all of them in use. Revocation lists need none of this.
        Raises: CannotListen when one of them is unusable.
        """
        uses = [bound.tls.read_again() for bound in self._bound if bound.tls is not None]

        def use() -> None:
            for each in uses:
                each()

        return use

    def begin_drain(self) -> None:
        """Report NOT_SERVING, refuse new calls (UNAVAILABLE with RetryInfo), end open streams."""
        self._drain.begin()

    def stop(self, grace_s: float) -> bool:
        """Drain, wait at most `grace_s` for calls in flight, then cut. True if none was cut."""
        self.begin_drain()
        finished = self._drain.wait_idle(grace_s)
        self._close(limits.FLUSH_S if finished else 0)
        self._watchdog.stop()
        return finished

    def _abandon(self) -> None:
        """Give up addresses bound so far; gRPC closes the ports of started servers only."""
        self.begin_drain()
        for bound in self._bound:
            bound.server.start()
        self._close(0)

    def _close(self, flush_s: float) -> None:
        """Close every address; calls that have ended get `flush_s` for their answers to leave."""
        stopping = [bound.server.stop(flush_s) for bound in self._bound]
        for event in stopping:
            event.wait(flush_s + limits.STOP_WAIT_S)
        for bound in self._bound:
            if bound.socket_identity is not None and isinstance(bound.listener, UnixListener):
                sockets.remove(bound.listener.path, bound.socket_identity)
            for lane in bound.lanes.values():
                lane.shutdown(wait=False, cancel_futures=True)
        self._bound.clear()

    def _bind(self, listener: Listener) -> None:
        if isinstance(listener, UnixListener):
            self._bind_unix(listener)
        else:
            self._bind_tcp(listener)

    def _bind_unix(self, listener: UnixListener) -> None:
        identify = socket_identity(listener.principal, administrator=listener.administrator)
        server, lanes = self._server(identify)
        sockets.prepare(listener)
        address = f"unix:{listener.path}"
        _add_port(server, address, None)
        bound = _Bound(listener, server, lanes, address)
        self._bound.append(bound)
        bound.socket_identity = sockets.restrict(listener)

    def _bind_tcp(self, listener: TcpListener) -> None:
        tls = ServerTLS(listener)
        server, lanes = self._server(
            certificate_identity(self._world.clock, self._revocations(listener))
        )
        port = _add_port(server, listener.address, tls.credentials())
        host = listener.address.rpartition(":")[0]
        self._bound.append(_Bound(listener, server, lanes, f"{host}:{port}", tls=tls))

    def _revocations(self, listener: TcpListener) -> RevocationList | None:
        if listener.revoked is None:
            return None
        revoked = RevocationList(listener.revoked, self._world.clock.monotonic)
        if fault := revoked.fault():
            raise CannotListen("REVOCATION_LIST_UNREADABLE", f"{listener.revoked}: {fault}")
        return revoked

    def _server(self, identify: Identify) -> tuple[grpc.Server, Mapping[LaneName, Lane]]:
        lanes = make_lanes(self._options.work_threads)
        keeping = Gatekeeping(
            world=self._world,
            options=self._options,
            quotas=Quotas(self._options.quota, self._world.clock.monotonic),
            drain=self._drain,
            watchdog=self._watchdog,
            identify=identify,
        )
        server = grpc.server(
            lanes[LaneName.WORK],
            handlers=[Gate(self._methods, lanes, keeping)],
            options=limits.CHANNEL_OPTIONS,
            maximum_concurrent_rpcs=sum(lane.capacity for lane in lanes.values()),
        )
        return server, lanes


def _add_port(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise CannotListen(
            "ADDRESS_UNUSABLE",
            f"cannot listen on {address}: it is in use, or no address of this host",
        ) from error
