"""Connections that say nothing, stammer, or come by the hundred: what they cost the daemon."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from keyd.rpc import limits
from tests import http2
from tests.faults.bystanders import bystanders
from tests.fleets import wait_until
from tests.tally import Promise, tallied
from tests.tls_sites import Target

SILENT = 1_000
HANDSHAKE_S = dict(limits.CHANNEL_OPTIONS)["grpc.server_handshake_timeout_ms"] / 1000
LIMIT_S = 20.0


def test_silent_connections_are_closed_and_hold_nobody_up(target: Target) -> None:
    with (
        tallied(Promise.NO_STARVATION, "1,000 silent connections") as tally,
        bystanders(target.installation) as others,
        ExitStack() as stack,
    ):
        others.wait_for(3)
        before = target.process.descriptors
        opened_at = time.monotonic()
        for _ in range(SILENT):
            stack.enter_context(target.door.tcp(LIMIT_S))
            tally.injected()
        wait_until(lambda: target.process.descriptors > before + SILENT / 2, "their descriptors")
        began = time.monotonic()
        with target.door.client() as client:
            assert client.keys.get("timestamp").name == "timestamp"
        new_client_s = time.monotonic() - began
        wait_until(lambda: target.process.descriptors < before + 20, "descriptors to come back")
        back_s = time.monotonic() - opened_at
        tally.recovered(back_s)
    print(
        f"{SILENT} silent connections: a new client answered in {1000 * new_client_s:.0f} ms, "
        f"descriptors back after {back_s:.1f} s (handshake timeout {HANDSHAKE_S:g} s); {others}"
    )
    others.check()


def test_handshakes_that_stammer_are_closed(target: Target) -> None:
    """A byte now and then, of TLS and then of HTTP/2, is no sign of life: the timeout stands."""
    hello = b"\x16\x03\x01\x02\x00" + bytes(200)

    def stammer(connect: Callable[[], socket.socket], words: bytes) -> float:
        """How long the daemon listens to it."""
        began = time.monotonic()
        with connect() as peer:
            peer.settimeout(0.2)
            for number in range(int(LIMIT_S / 0.2)):
                try:
                    peer.sendall(words[number : number + 1])
                    if not peer.recv(100):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        return time.monotonic() - began

    with (
        tallied(Promise.NO_STARVATION, "handshakes byte by byte") as tally,
        bystanders(target.installation) as others,
        ThreadPoolExecutor(40) as pool,
    ):
        door, context = target.door, target.door.context()
        stammering = [
            *(pool.submit(stammer, lambda: door.tcp(LIMIT_S), hello) for _ in range(20)),
            *(
                pool.submit(stammer, lambda: door.tls(LIMIT_S, context), http2.PREFACE)
                for _ in range(20)
            ),
        ]
        heard = [each.result() for each in stammering]
        tally.injected(len(heard))
        tally.recovered(max(heard))
        others.wait_for(3)
    print(f"stammering peers are heard for {min(heard):.1f} to {max(heard):.1f} s; {others}")
    assert max(heard) < HANDSHAKE_S + 10
    others.check(3)


@pytest.mark.slow(seconds=30)
def test_a_storm_of_handshakes(target: Target) -> None:
    """200 whole TLS handshakes a second, each left again at once, while others work."""
    seconds, rate = 15, 200
    context = target.door.context()

    def shake(at: float) -> float:
        time.sleep(max(0.0, at - time.monotonic()))
        began = time.monotonic()
        target.door.tls(LIMIT_S, context).close()
        return time.monotonic() - began

    with (
        tallied(Promise.NO_STARVATION, "200 handshakes a second") as tally,
        bystanders(target.installation) as others,
        ThreadPoolExecutor(64) as pool,
    ):
        began = time.monotonic()
        times = [began + number / rate for number in range(seconds * rate)]
        delays = sorted(pool.map(shake, times))
        took = time.monotonic() - began
        tally.injected(len(delays))
    print(
        f"{len(delays)} handshakes, {len(delays) / took:.0f} a second, "
        f"p99 {1000 * delays[int(0.99 * len(delays))]:.0f} ms; {others}"
    )
    others.check()


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(400)
def test_connections_one_after_the_other_leave_nothing(target: Target) -> None:
    """10,000 times: handshake, a call, and away. Memory, descriptors and threads stay."""
    context, total, warm_up = target.door.context(), 10_000, 1_000
    call = http2.whole_call("/grpc.health.v1.Health/Check", 1, b"")

    def visit(_number: int) -> bool:
        connection = http2.Connection(target.door.tls(LIMIT_S, context))
        connection.send(call)
        answered = connection.first(http2.DATA).stream == 1
        connection.close()
        return answered

    with (
        tallied(Promise.NO_STARVATION, "connections one after the other") as tally,
        bystanders(target.installation) as others,
        ThreadPoolExecutor(2) as pool,
    ):
        assert all(pool.map(visit, range(warm_up)))
        before = target.process.memory_mib, target.process.descriptors, target.process.threads
        began = time.monotonic()
        assert all(pool.map(visit, range(total - warm_up)))
        took = time.monotonic() - began
        tally.injected(total)
        wait_until(lambda: target.process.descriptors < before[1] + 20, "descriptors to come back")
    grown = target.process.memory_mib - before[0]
    print(
        f"{total} connections, {(total - warm_up) / took:.0f} a second: {grown:+.1f} MiB, "
        f"{target.process.descriptors - before[1]:+d} descriptors, "
        f"{target.process.threads - before[2]:+d} threads; {others}"
    )
    # Two bystanders sign meanwhile, whose records and caches take some of it.
    assert grown < 40
    assert target.process.threads < before[2] + 20
    others.check()
