"""A worker's start, and its end at the worst moment."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from keyd.backends.channel import Channel
from keyd.backends.config import TokenConfig
from keyd.backends.link import WorkerLink
from keyd.backends.queue import RequestQueue
from keyd.errors import BackendUnavailable
from keyd.wire.worker_pb2 import Probe, Request

ENDS_AT_ONCE = (sys.executable, "-c", "pass")
SOON_S = 10.0


class LateQueue(RequestQueue):
    """Takes a new worker so late that its end may have been told before, if anything can tell."""

    def __init__(self) -> None:
        super().__init__(10, 1000, lambda request, failure: False)
        self.lost = threading.Event()

    def attach(self, channel: Channel) -> None:
        self.lost.wait(1.0)
        super().attach(channel)


def test_a_worker_that_dies_at_its_start_is_not_waited_for(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.touch(0o644)
    queue = LateQueue()
    config = TokenConfig("hsm", module, "pkcs11:token=hsm")
    link = WorkerLink(config, ENDS_AT_ONCE, queue, lambda channel, reason: queue.lost.set())
    link.spawn()
    try:
        assert queue.lost.wait(SOON_S)
        with pytest.raises(BackendUnavailable, match="TOKEN_WORKER_GONE"):
            queue.ask([Request(probe=Probe())], 0.1)
    finally:
        link.end()
