"""Lines on their way to standard error: whoever logs never waits for whoever reads.

A reader that stalls (journald, a full pipe, a terminal stopped with Ctrl-S) fills the queue; from
then on lines are dropped and counted, and the count is logged once lines get through again.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from typing import TextIO

import structlog

_log = structlog.get_logger("keyd.log")

# Characters: some four thousand calls.
ROOM = 1 << 20
_EXIT_S = 1.0


class LogQueue(io.TextIOBase):
    """A bounded queue and the thread that writes it, one line for each `write`."""

    def __init__(self, stream: TextIO | None, room: int = ROOM) -> None:
        """`stream` has a descriptor; None: there is nobody to write to, all is dropped."""
        # Not through the stream: its buffer's lock, held by a thread that hangs, would hang others.
        self._descriptor = -1 if stream is None else stream.fileno()
        self._terminal = stream is not None and stream.isatty()
        self._room = room
        self._lines: deque[str] = deque()
        self._size = 0
        self._lost = 0
        # Reentrant: the garbage collector may log from within.
        self._changed = threading.Condition()
        if stream is not None:
            threading.Thread(target=self._run, name="keyd-log", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue one line, its end included, or drop it. Returns at once."""
        with self._changed:
            if self._descriptor >= 0 and self._size + len(text) <= self._room:
                self._lines.append(text)
                self._size += len(text)
                self._changed.notify_all()
            else:
                self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: loggers call it after each line, and none of them may wait."""

    def isatty(self) -> bool:
        """Whether the lines go to a terminal."""
        return self._terminal

    def drain(self, seconds: float = _EXIT_S) -> bool:
        """Wait until all is written, at most so long; whether it is. For an orderly end."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines[0]
            written = self._put(line.encode(errors="backslashreplace"))
            if lost := self._done_with(line, written=written):
                _log.error("log_lines_lost", lines=lost)

    def _done_with(self, line: str, *, written: bool) -> int:
        """How many lost lines are to be told of now."""
        with self._changed:
            self._lines.popleft()
            self._size -= len(line)
            self._changed.notify_all()
            self._lost += not written
            if not written or self._size > self._room // 2:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def _put(self, data: bytes) -> bool:
        """Wait as long as it takes; False if nobody takes it."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return False
        return True
