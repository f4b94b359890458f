"""A daemon whose log nobody reads, as when journald hangs: it signs, and tells of it later."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyd.daemon.log_queue import ROOM
from keyd_client import Client, KeydClientError
from tests.daemon import OPAQUE_KEY, Installation
from tests.tally import Promise, tallied

PIPE_BYTES = 4096
LIMIT_S = 60.0
# Each call is a line of more than 200 characters.
CALLS = ROOM // 200
CALLERS = 4


class Fifo:
    """What the daemon has as its standard error, full from the beginning."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(self._descriptor, b"\n" * PIPE_BYTES)
        self._text = b""

    def read_until(self, event: str) -> list[dict[str, Any]]:
        """All whole lines so far, once one of them is this event."""
        until = time.monotonic() + LIMIT_S
        while event.encode() not in self._text[: self._text.rfind(b"\n") + 1]:
            assert time.monotonic() < until, self._text[-3000:]
            try:
                self._text += os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                time.sleep(0.005)
        lines = self._text[: self._text.rfind(b"\n")].splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def opened(path: Path) -> Iterator[Fifo]:
    fifo = Fifo(path)
    try:
        yield fifo
    finally:
        fifo.close()


def sign_when_it_serves(client: Client) -> None:
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            assert client.sign_opaque(OPAQUE_KEY, b"the first").signature
        except KeydClientError:
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


def list_tokens(client: Client, times: int) -> None:
    for _ in range(times):
        assert client.tokens.list()


@pytest.mark.slow(seconds=20)
def test_a_log_that_nobody_reads_stops_nothing_and_the_loss_is_told(
    installation: Installation,
) -> None:
    daemon = installation.serve()
    with (
        tallied(Promise.NO_STARVATION, "the log is not read") as tally,
        opened(daemon.log) as log,
        daemon,
        installation.client() as client,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        sign_when_it_serves(client)
        for asked in [pool.submit(list_tokens, client, CALLS // CALLERS) for _ in range(CALLERS)]:
            asked.result()
        assert client.sign_opaque(OPAQUE_KEY, b"the last").signature
        tally.injected()
        events = log.read_until("log_lines_lost")
        lost = next(event["lines"] for event in events if event["event"] == "log_lines_lost")
        told = sum(event.get("method") == "TokenService.ListTokens" for event in events)
        print(f"{told} of {CALLS} calls told, {lost} lines lost")
        assert 0 < told < CALLS
        assert told + lost >= CALLS // CALLERS * CALLERS
        assert events[0]["event"] != "call_finished", "the start is told first"
        # Again nobody reads, and the daemon is to end.
        list_tokens(client, 100)
        assert daemon.stop() == 0
