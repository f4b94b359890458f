"""Measuring programs in processes of their own: one JSON line in, one JSON line out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_STOP_S = 10.0
# gRPC reports every idle connection that the daemon closes, in the middle of our table.
_QUIET = {"GRPC_VERBOSITY": "ERROR"}


class ProgramFailed(Exception):
    """A measuring program ended; its words are on standard error."""


class Program:
    """A module of this package as a child process; use it in a with statement."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{module}"],
            cwd=ROOT,
            env=os.environ | _QUIET | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        # Leaving it closes the pipes, which ends the program, and waits for it.
        with process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to one command. Raises: ProgramFailed."""
        sender, receiver = self._process.stdin, self._process.stdout
        if sender is None or receiver is None:
            raise AssertionError("started with pipes")
        sender.write(json.dumps({"do": do, **arguments}) + "\n")
        sender.flush()
        line = receiver.readline()
        if not line:
            raise ProgramFailed(f"bench.{self._module} ended during {do!r}")
        return json.loads(line)


def answer(commands: Mapping[str, Callable[..., Any]]) -> None:
    """The child's side: answer until standard input closes."""
    # Vendor libraries print to standard output: keep it for the answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("do")](**request)), file=answers, flush=True)
