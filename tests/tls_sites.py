"""An installation that listens on TLS too, and connections to it that are no gRPC client's."""

from __future__ import annotations

import json
import resource
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from keyd_client import Client
from keyd_client.profile import Profile
from tests.certificates import Authority
from tests.daemon import CI, REPOSITORY, Installation
from tests.running import Daemon

_LISTEN = """
[listen.tcp]
address = "127.0.0.1:0"
certificate = "{folder}/server.pem"
key = "{folder}/server.key"
client_ca = "{folder}/ca.pem"
revoked = "{folder}/revoked"
"""


@dataclass(frozen=True)
class Door:
    """Where and as whom to connect: files only, so that a process of its own can."""

    port: int
    folder: Path
    name: str

    def profile(self, timeout_s: float = 30.0) -> Profile:
        """For the SDK."""
        return Profile(
            f"dns:127.0.0.1:{self.port}",
            repository=REPOSITORY,
            ca=self.folder / "ca.pem",
            certificate=self.folder / f"{self.name}.pem",
            key=self.folder / f"{self.name}.key",
            timeout_s=timeout_s,
        )

    def client(self, timeout_s: float = 30.0) -> Client:
        return Client(self.profile(timeout_s))

    def tcp(self, timeout_s: float) -> socket.socket:
        """Connected, and nothing said."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def tls(self, timeout_s: float, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A finished handshake, and nothing said in it."""
        return (context or self.context()).wrap_socket(
            self.tcp(timeout_s), server_hostname="localhost"
        )

    def context(self) -> ssl.SSLContext:
        """To be shared by many connections."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.load_cert_chain(self.folder / f"{self.name}.pem", self.folder / f"{self.name}.key")
        context.set_alpn_protocols(["h2"])
        return context


@dataclass
class TlsSite:
    """Certificates, and who they are for, below `folder`; `client.pem` is CI's."""

    installation: Installation
    folder: Path
    authority: Authority = field(default_factory=Authority)

    def configure(self, extra: str = "", **settings: str) -> None:
        """Listen on TLS; the rest as `Installation.configure` does."""
        self.renew()
        self.issue("client", CI)
        (self.folder / "ca.pem").write_bytes(self.authority.certificate)
        (self.folder / "revoked").touch()
        self.installation.configure(_LISTEN.format(folder=self.folder) + extra, **settings)

    def renew(self) -> None:
        """Another server certificate."""
        self.authority.server().write(self.folder, "server")

    def issue(self, name: str, uri: str) -> None:
        """NAME.pem and NAME.key, for the identity `uri`."""
        self.authority.client(uris=[uri]).write(self.folder, name)

    def allow(self, *uris: str) -> None:
        """Let them do whatever CI may, from the next start or reload."""
        listed = ", ".join(json.dumps(f"uri:{uri}") for uri in (CI, *uris))
        policy = self.installation.policy.read_text()
        self.installation.policy.write_text(policy.replace(f'"uri:{CI}"', listed))

    def revoke(self, entry: str) -> None:
        """Put an entry on the list, as an operator would."""
        path = self.folder / "revoked"
        path.with_suffix(".new").write_text(f"{path.read_text()}{entry}\n")
        path.with_suffix(".new").rename(path)

    def door(self, daemon: Daemon, name: str = "client") -> Door:
        """The way in for the owner of NAME.pem."""
        listening = [e["address"] for e in daemon.events() if e["event"] == "rpc_listening"]
        (address,) = [one for one in listening if not one.startswith("unix:")]
        return Door(int(address.rpartition(":")[2]), self.folder, name)


@dataclass(frozen=True)
class Process:
    """What the kernel tells of a process."""

    pid: int

    @property
    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


@dataclass
class Target:
    """A daemon under attack, and the attackers' way in."""

    installation: Installation
    site: TlsSite
    daemon: Daemon

    @property
    def process(self) -> Process:
        return Process(self.daemon.running.pid)

    @property
    def door(self) -> Door:
        return self.site.door(self.daemon)
