"""Real `keyd` programs in processes of their own, as operators and outside programs run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

KEYD = (sys.executable, "-P", "-m", "keyd")
_START_S = 60.0
_STOP_S = 30.0
_LOOK_S = 0.02


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what configures keyd: tests say that themselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYD_")}
    kept.pop("NOTIFY_SOCKET", None)
    return kept | dict(extra or {})


def keyd(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, stdin: str = ""
) -> Done:
    """Run one command to its end."""
    done = subprocess.run(
        [*KEYD, *map(str, arguments)],
        env=clean_environment(environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_START_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Daemon:
    """A `keyd serve` or `keyd dev` in the background; its log goes to `log`.

    `launcher` is what starts it: a program that becomes it, such as ``strace -D``.
    """

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    _read: int = 0
    _events: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Daemon:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.launcher, *KEYD, *self.command],
                env=clean_environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.running.poll() is None:
            self.running.kill()
            self.running.wait(_STOP_S)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of its log so far; what was read before is not read again."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            fresh = log.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        self._events += [json.loads(line) for line in lines if line.startswith("{")]
        return list(self._events)

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until the log holds so many of these events; returns the last."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            found = [one for one in self.events() if one["event"] == event]
            if len(found) >= count:
                return found[-1]
            assert self.running.poll() is None, self.log.read_text()[-3000:]
            time.sleep(_LOOK_S)
        raise AssertionError(f"no {event}: {self.log.read_text()[-3000:]}")

    def wait_for_file(self, path: Path) -> None:
        """Wait until the file is there."""
        until = time.monotonic() + _START_S
        while not path.exists():
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            assert self.running.poll() is None, self.log.read_text()[-3000:]
            time.sleep(_LOOK_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.running.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.send(number)
        return self.running.wait(_STOP_S)


def dev(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Daemon:
    """A `keyd dev` on `folder` (use it in a with statement, then `wait_for_file(ready)`)."""
    return Daemon(
        ["dev", "--dir", str(folder), *arguments],
        folder.parent / f"{folder.name}.log",
        environment or {},
    )
