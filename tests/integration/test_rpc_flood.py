"""A client that opens and resets streams as fast as it can, and what others notice of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import threading
import time
from pathlib import Path

import grpc
import pytest

from keyd.rpc.interceptors.metrics import CALLS
from keyd_protos.v1 import keys_pb2, keys_pb2_grpc
from tests import http2
from tests.serving import Place, serve

FLOOD_S = 5.0
BURST = 50


def flood(socket_path: str, seconds: float, opened: multiprocessing.Queue[int]) -> None:
    """Open and reset calls of a real method, on a new connection whenever one is closed."""
    deadline, count = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = http2.Connection(socket_path, timeout_s=5)
            drained = threading.Thread(target=drain, args=(connection,), daemon=True)
            drained.start()
            for first in range(1, 2**20, 2 * BURST):
                if time.monotonic() > deadline or not drained.is_alive():
                    break
                streams = range(first, first + 2 * BURST, 2)
                connection.open_and_reset("/keyd.v1.KeyService/ListKeys", streams)
                count += BURST
            connection.close()
    opened.put(count)


def drain(connection: http2.Connection) -> None:
    with contextlib.suppress(OSError):
        for _ in connection.frames():
            pass


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.slow(seconds=10)
def test_resets_do_not_keep_others_from_being_served(place: Place) -> None:
    context = multiprocessing.get_context("spawn")
    opened: multiprocessing.Queue[int] = context.Queue()
    with serve(place, place.admin, place.release) as serving:
        stub = keys_pb2_grpc.KeyServiceStub(serving.local(0))
        stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=3)
        before = resident_mib()
        attacker = context.Process(
            target=flood, args=(str(place.release.path), FLOOD_S, opened), daemon=True
        )
        attacker.start()
        delays, failures = probe(stub, attacker)
        count = opened.get(timeout=20)
        attacker.join(timeout=20)
        grown = resident_mib() - before
        cut = CALLS.labels("KeyService.ListKeys", "CANCELLED")._value.get()
        assert stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=3) is not None
    delays.sort()
    print(
        f"{count} streams opened and reset, {cut:.0f} reached a thread; "
        f"{len(delays)} calls of another client, {failures} failed, "
        f"p99 {1000 * delays[int(0.99 * len(delays))]:.0f} ms; {grown:+.0f} MiB"
    )
    assert count > 1_000
    # The flood was no mere noise: calls of it got as far as a thread.
    assert cut > 0
    assert len(delays) > 20
    assert failures == 0
    assert grown < 40


def probe(
    stub: keys_pb2_grpc.KeyServiceStub, attacker: multiprocessing.process.BaseProcess
) -> tuple[list[float], int]:
    """Call one after the other until the attacker is done."""
    delays: list[float] = []
    failures = 0
    while attacker.is_alive() and len(delays) < 100_000:
        started = time.monotonic()
        try:
            stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=3)
        except grpc.RpcError:
            failures += 1
        delays.append(time.monotonic() - started)
    return delays, failures
