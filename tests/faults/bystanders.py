"""Others at work while a client misbehaves: one signs, one asks for health, and both are timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from tests.daemon import BINS, Installation
from tests.recording import check_receipts

TIMEOUT_S = 20.0
_PAUSE_S = 0.02


@dataclass
class Bystanders:
    """How long each signature and each health probe took; one that fails ends the test."""

    signatures: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"signatures {_told(self.signatures)}; health {_told(self.probes)}"

    def wait_for(self, calls: int) -> None:
        """Until both have been answered so many times more."""
        signed, probed = len(self.signatures) + calls, len(self.probes) + calls
        until = time.monotonic() + 3 * TIMEOUT_S
        while len(self.signatures) < signed or len(self.probes) < probed:
            assert time.monotonic() < until, f"others are kept waiting: {self}"
            time.sleep(_PAUSE_S)

    def check(self, calls: int = 10) -> None:
        """Both were served, each time far within their patience."""
        assert min(len(self.signatures), len(self.probes)) >= calls, str(self)
        assert max(*self.signatures, *self.probes) < TIMEOUT_S / 2, str(self)


def _told(delays: list[float]) -> str:
    ordered = sorted(delays) or [0.0]
    p50, p99 = (1000 * ordered[int(part * len(ordered))] for part in (0.5, 0.99))
    return f"{len(delays)}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {1000 * ordered[-1]:.0f} ms"


@contextmanager
def bystanders(installation: Installation) -> Iterator[Bystanders]:
    """Signs for one bin after the other and checks everything; on the release socket, once a test.

    Leaving the block raises what a bystander met.
    """
    seen, over = Bystanders(), Event()
    with ThreadPoolExecutor(2) as pool:
        working = [
            pool.submit(_sign, installation, seen.signatures, over),
            pool.submit(_probe, installation, seen.probes, over),
        ]
        try:
            yield seen
        finally:
            over.set()
            for each in working:
                each.result()


def _sign(installation: Installation, delays: list[float], over: Event) -> None:
    with installation.client("release", TIMEOUT_S) as client:
        recorder = installation.recorder("release")
        for version in range(1, 1_000_000):
            for name in BINS:
                if over.wait(_PAUSE_S):
                    check_receipts(client, recorder.receipts[-200:])
                    return
                with _timed(delays):
                    recorder.sign("bins", name, recorder.writer.targets(version))


def _probe(installation: Installation, delays: list[float], over: Event) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{installation.socket('release')}", options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        while not over.wait(_PAUSE_S):
            with _timed(delays):
                check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)


@contextmanager
def _timed(delays: list[float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    delays.append(time.monotonic() - started)
