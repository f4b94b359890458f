"""Starting and ending a worker process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

WORKER_COMMAND = (sys.executable, "-I", "-m", "keyd.worker")

_END_S = 4.0
_SOCKET_BYTES = 1024 * 1024


class WorkerProcess:
    """A running worker, in a session of its own so that a terminal's Ctrl-C does not reach it.

    It is spawned, never forked: a forked child would share the parent's sockets, gRPC state and,
    in a process that has loaded a module, even its login.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        development: bool,
        sandbox: str = "unix",
    ) -> None:
        """Start it. Raises: OSError."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as failed, theirs:
            failed.callback(self.socket.close)
            for end in (self.socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            arguments = [*command, "--fd", str(theirs.fileno()), "--sandbox", sandbox]
            self._process = subprocess.Popen(
                arguments + (["--development"] if development else []),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", **environment},
                cwd="/",
            )
            failed.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stopped(self) -> bool:
        """Whether a signal has stopped it (state T of proc(5)): it will answer nothing."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:  # noqa: PTH123 - ten times a second
                # The name in brackets may hold anything.
                return file.read().rpartition(b")")[2].lstrip().startswith(b"T")
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL; harmless when it is gone."""
        self._process.kill()

    def reap(self) -> int | None:
        """Collect the end of a worker whose socket is closed, by force if it dawdles.

        Returns the exit status (negative: the signal), None if not even SIGKILL ended it yet.
        """
        for attempt in (self._process.kill, None):
            try:
                return self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                if attempt is not None:
                    attempt()
        return None
