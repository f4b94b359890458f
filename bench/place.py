"""A keyd below one directory: made by `keyd dev`, then served like any other."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KEYD = (sys.executable, "-P", "-m", "keyd")
_WAIT_S = 60.0
_LOOK_S = 0.05
# The loads here are one principal's; quotas exist to keep such a one from starving others.
_LIMITS = """
[limits]
calls_in_flight = 256
calls_per_s = 1000000.0
bytes_per_s = 10000000000.0
"""


class DaemonFailed(Exception):
    """keyd did not start; the text says what it said."""


@dataclass(frozen=True)
class Place:
    """What `keyd dev` made, and where; `variables` is what its module needs besides."""

    base: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.base / "keyd.toml"

    @property
    def ledger(self) -> Path:
        return Path(self.setting("ledger"))

    @property
    def tls(self) -> Path:
        return self.base / "tls"

    @property
    def pin_file(self) -> Path:
        return self.base / "softhsm" / "pin"

    @property
    def environment(self) -> dict[str, str]:
        """What finds the client profiles `dev` and `dev-tls`, and SoftHSM the token."""
        return {
            "KEYD_PROFILE_DIR": str(self.base / "profiles"),
            "SOFTHSM2_CONF": str(self.base / "softhsm" / "softhsm2.conf"),
            **self.variables,
        }

    def setting(self, name: str) -> str:
        """A text of the configuration that occurs once, e.g. "module"."""
        found = re.search(rf'^{name} = "(.*)"$', self.config.read_text(), re.MULTILINE)
        if found is None:
            raise DaemonFailed(f"{self.config} says nothing of {name}")
        return found[1]

    def edit(self, found: str, instead: str) -> None:
        """Change the configuration where it says `found`, once. Raises: DaemonFailed."""
        before = self.config.read_text()
        if before.count(found) != 1:
            raise DaemonFailed(f"{self.config} says {found!r} not exactly once")
        self.config.write_text(before.replace(found, instead))


def make_place(base: Path) -> Place:
    """Token, ledger, certificates, policy and profiles in a new directory; nothing runs after."""
    place = Place(base)
    port = _free_port()
    log = base.with_name(f"{base.name}.log")
    with log.open("ab") as words:
        command = [*KEYD, "dev", "--dir", str(base), "--port", str(port)]
        process = subprocess.Popen(command, stdout=words, stderr=words)
    try:
        until = time.monotonic() + _WAIT_S
        while not (base / "ready").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise DaemonFailed(_last_words(log))
            time.sleep(_LOOK_S)
    finally:
        process.terminate()
        process.wait(_WAIT_S)
    with place.config.open("a") as config:
        config.write(_LIMITS)
    return place


class Daemon:
    """`keyd serve` on a place; entering waits until it is ready."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self.ready_s = 0.0

    def __enter__(self) -> Daemon:
        address = self._place.base / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            started = time.monotonic()
            self._start(str(address))
            self._await_ready(notified)
            self.ready_s = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_WAIT_S)

    @property
    def pid(self) -> int:
        """The daemon's process. Raises: DaemonFailed before the start."""
        if self._process is None:
            raise DaemonFailed("not started")
        return self._process.pid

    def workers(self) -> list[int]:
        """The processes of its workers."""
        # A child is listed with the thread that started it.
        listed = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/children")]
        return [int(pid) for pid in " ".join(listed).split()]

    def resident_mb(self) -> float:
        """RSS of daemon and workers, in MB (10^6 bytes); pages they share count twice."""
        return sum(map(_resident_kib, [self.pid, *self.workers()])) * 1024 / 1e6

    @property
    def _log(self) -> Path:
        return self._place.base / "keyd.log"

    def _start(self, notify: str) -> None:
        command = [*KEYD, "serve", "--config", str(self._place.config)]
        if os.geteuid() == 0:
            command.append("--allow-root")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"NOTIFY_SOCKET": notify},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await_ready(self, notified: socket.socket) -> None:
        until = time.monotonic() + _WAIT_S
        while (left := until - time.monotonic()) > 0:
            heard, _, _ = select.select([notified], [], [], min(left, _LOOK_S))
            if heard and b"READY=1" in notified.recv(4096).split(b"\n"):
                return
            if self._process is None or self._process.poll() is not None:
                break
        raise DaemonFailed(_last_words(self._log))


def _resident_kib(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return 0 if found is None else int(found[1])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _last_words(log: Path) -> str:
    return "keyd did not start:\n" + "\n".join(log.read_text().splitlines()[-5:])
