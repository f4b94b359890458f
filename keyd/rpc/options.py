"""What the daemon hands to the gRPC face: listening addresses and settable limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from keyd.errors import KeydError
from keyd.rpc import limits


class CannotListen(KeydError):
    """An address, socket directory or certificate must be mended before keyd listens there."""


@dataclass(frozen=True)
class UnixListener:
    """A Unix socket that names its principal: who can open it *is* that principal.

    `path` is absolute, at most 107 bytes, in a directory that is made with mode 0700 (0750 with
    `group`) or found so. `principal` is the bare name ("release" becomes "unix:release").
    `administrator`: callers are the local administrator. `group` names the system group that may
    open the socket (mode 0660), else only keyd's user may (0600).
    """

    path: Path
    principal: str
    administrator: bool = False
    group: str = ""


@dataclass(frozen=True)
class TcpListener:
    """A TCP address with mTLS; all files are PEM and read again by `RpcServers.read_tls`.

    `address` is "host:port" (port 0: any free one). `certificate` holds the server's chain, leaf
    first; `client_ca` the only authorities whose client certificates are accepted. `revoked` names
    a list of revoked serials and keys (see keyd/rpc/revocation.py), consulted on every call.
    """

    address: str
    certificate: Path
    key: Path
    client_ca: Path
    revoked: Path | None = None


Listener = UnixListener | TcpListener


@dataclass(frozen=True)
class Quota:
    """What one identity may use of one listening address. Bursts are two seconds' worth.

    `calls_in_flight` counts signing, key, repository and audit calls; token calls, probes and
    watches have small limits of their own, so that none of them takes the others' place.
    """

    calls_in_flight: int = 32
    calls_per_s: float = 2_000.0
    bytes_per_s: float = 32.0 * limits.MIB
    admin_in_flight: int = 4
    probes_in_flight: int = 4
    watches: int = 4


@dataclass(frozen=True)
class ServerOptions:
    """Settings shared by all listeners. `reflection` offers the contract to callers granted it."""

    reflection: bool = False
    quota: Quota = field(default_factory=Quota)
    call_timeout_s: float = limits.CALL_TIMEOUT_S
    slow_call_timeout_s: float = limits.SLOW_CALL_TIMEOUT_S
    work_threads: int = limits.WORK_THREADS
