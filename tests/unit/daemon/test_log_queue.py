"""A log whose reader stalls or goes away: nobody waits, and what was lost is told."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from keyd.daemon.log_queue import LogQueue

LIMIT_S = 20.0
PIPE_BYTES = 4096
LINE = "x" * 99 + "\n"


class Pipe:
    """A small pipe whose reader reads when it is told to."""

    def __init__(self, stack: ExitStack) -> None:
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.stream = stack.enter_context(os.fdopen(writer, "w"))
        stack.callback(self.stop_reading)

    def read(self, lines: int) -> list[str]:
        """Wait for so many."""
        found = b""
        while found.count(b"\n") < lines:
            found += os.read(self.reader, PIPE_BYTES)
        return found.decode().splitlines(keepends=True)

    def stop_reading(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with ExitStack() as stack:
        yield Pipe(stack)


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come true")


def test_lines_arrive_in_order(pipe: Pipe) -> None:
    queue = LogQueue(pipe.stream)
    wanted = [f"{number}\n" for number in range(500)]
    for line in wanted:
        queue.write(line)
    assert pipe.read(500) == wanted
    assert queue.drain(LIMIT_S)


def test_a_stalled_reader_costs_lines_and_nobody_waits(pipe: Pipe) -> None:
    queue = LogQueue(pipe.stream, room=500 * len(LINE))
    with capture_logs() as told:
        for _ in range(1000):
            assert queue.write(LINE) == len(LINE)
        assert not queue.drain(0.01)
        assert not told
        lines = pipe.read(500)
        wait_until(lambda: bool(told))
        lost = told[0]["lines"]
        if rest := 1000 - lost - len(lines):
            lines += pipe.read(rest)
    assert [entry["event"] for entry in told] == ["log_lines_lost"]
    assert len(lines) + lost == 1000
    # What the queue and the pipe hold, and one line that is between them.
    assert 500 <= len(lines) <= 501 + PIPE_BYTES // len(LINE)
    assert set(lines) == {LINE}


def test_a_reader_that_is_gone_costs_lines_only(pipe: Pipe) -> None:
    pipe.stop_reading()
    queue = LogQueue(pipe.stream)
    with capture_logs() as told:
        for _ in range(100):
            queue.write(LINE)
        assert queue.drain(LIMIT_S)
    assert not told


def test_without_a_stream_all_is_dropped() -> None:
    queue = LogQueue(None)
    assert queue.write(LINE) == len(LINE)
    assert queue.drain(0)
    assert not queue.isatty()


def test_what_cannot_be_encoded_is_escaped(pipe: Pipe) -> None:
    LogQueue(pipe.stream).write(json.dumps("é", ensure_ascii=False) + "\udc80\n")
    assert pipe.read(1) == ['"é"\\udc80\n']
