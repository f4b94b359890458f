"""Authenticated peers that flood a daemon with frames, or never read what it answers."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import ssl
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests import http2
from tests.faults.bystanders import Bystanders, bystanders
from tests.http2 import Connection, Frame
from tests.tally import Promise, tallied
from tests.tls_sites import Door, Target

FLOOD_S = 5.0
BURST = 50
LIST_KEYS = "/keyd.v1.KeyService/ListKeys"

Bytes = Iterator[bytes]


def resets() -> Bytes:
    """Calls of a real method, each reset at once: CVE-2023-44487."""
    cancel = (8).to_bytes(4)
    for first in range(1, 2**30, 2 * BURST):
        yield b"".join(
            http2.opening(LIST_KEYS, stream) + Frame(http2.RST_STREAM, 0, cancel, stream).encode()
            for stream in range(first, first + 2 * BURST, 2)
        )


def pings() -> Bytes:
    yield from itertools.repeat(Frame(http2.PING, 0, bytes(8)).encode() * 1_000)


def settings() -> Bytes:
    """Each wants an acknowledgement, which is never read: CVE-2019-9515."""
    changed = (struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 2**16 + n) for n in itertools.count())
    for payload in changed:
        yield Frame(http2.SETTINGS, 0, payload).encode() * 100


def continuations() -> Bytes:
    """Headers without an end: CVE-2024-24549 and its kin."""
    yield Frame(http2.HEADERS, 0, http2.literal_headers(LIST_KEYS), 1).encode()
    for number in itertools.count():
        header = http2.literal(f"x-{number}", "x" * 100) * 100
        yield Frame(http2.CONTINUATION, 0, header, 1).encode()


def empty_data() -> Bytes:
    """A message that never comes, in any number of frames: CVE-2019-9518."""
    yield http2.opening(LIST_KEYS, 1)
    yield from itertools.repeat(Frame(http2.DATA, 0, b"", 1).encode() * 1_000)


def windows() -> Bytes:
    """Credit that nobody needs, byte by byte: CVE-2019-9511."""
    yield http2.opening(LIST_KEYS, 1)
    yield from itertools.repeat(Frame(http2.WINDOW_UPDATE, 0, (1).to_bytes(4), 1).encode() * 500)


def beginnings() -> Bytes:
    """Calls without a request, ever more of them on one connection."""
    for stream in range(1, 2**30, 2):
        yield http2.opening(LIST_KEYS, stream)


FLOODS: Mapping[str, Callable[[], Bytes]] = {
    flood.__name__: flood
    for flood in (resets, pings, settings, continuations, empty_data, windows, beginnings)
}


@dataclass(frozen=True)
class Sent:
    """What an attacker got rid of, and how often the daemon hung up on it."""

    chunks: int
    connections: int
    longest_s: float


def attack(door: Door, name: str, seconds: float, sent: multiprocessing.Queue[Sent]) -> None:
    """Flood, on a new connection whenever one is closed. Nothing is read but by `drain`."""
    until, context = time.monotonic() + seconds, door.context()
    chunks, connections, longest = 0, 0, 0.0
    while time.monotonic() < until:
        began = time.monotonic()
        with contextlib.suppress(OSError), door.tls(5.0, context) as peer:
            peer.settimeout(seconds)
            connections += 1
            connection = Connection(peer)
            for chunk in FLOODS[name]():
                if time.monotonic() > until:
                    break
                connection.send(chunk)
                chunks += 1
                if name == "resets":
                    drain(peer, seconds)
        longest = max(longest, time.monotonic() - began)
    sent.put(Sent(chunks, connections, longest))


def drain(peer: ssl.SSLSocket, timeout_s: float) -> None:
    """Read what has come. Not in a thread: OpenSSL dies of two that use one connection."""
    peer.settimeout(0.0)
    with contextlib.suppress(ssl.SSLWantReadError):
        while peer.recv(65_536):
            pass
    peer.settimeout(timeout_s)


def flooded(target: Target, name: str, seconds: float, others: Bystanders) -> tuple[Sent, float]:
    """Let one attacker loose in a process of its own; what it sent, and the growth in MiB."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[Sent] = context.Queue()
    arguments = target.door, name, seconds, queue
    attacker = context.Process(target=attack, args=arguments, daemon=True)
    others.wait_for(5)
    before = most = target.process.memory_mib
    attacker.start()
    while attacker.is_alive() and queue.empty():
        most = max(most, target.process.memory_mib)
        time.sleep(0.05)
    sent = queue.get(timeout=60)
    attacker.join(60)
    return sent, most - before


def called(target: Target, method: str, code: str) -> float:
    """The daemon's own count of calls that ended so."""
    (address,) = [e["address"] for e in target.daemon.events() if e["event"] == "metrics_listening"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    start = f'keyd_rpc_calls_total{{code="{code}",method="{method}"}} '
    return sum(
        float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start)
    )


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_frames(target: Target, name: str) -> None:
    with (
        tallied(Promise.NO_STARVATION, f"flood of {name}") as tally,
        bystanders(target.installation) as others,
    ):
        sent, grown = flooded(target, name, FLOOD_S, others)
        tally.injected(sent.chunks)
        began = time.monotonic()
        others.wait_for(5)
        tally.recovered(time.monotonic() - began)
    print(f"{name}: {sent}; {grown:+.1f} MiB; {others}")
    assert sent.chunks > 10
    # Small frames in great numbers fragment gRPC's buffers: about +360 MiB after 40 s.
    assert grown < (600 if name in {"continuations", "windows"} else 40)
    others.check()
    if name == "resets":
        # No mere noise: calls of it got as far as a thread.
        cut = called(target, "KeyService.ListKeys", "CANCELLED")
        print(f"{BURST * sent.chunks} streams opened and reset, {cut:.0f} reached a thread")
        assert BURST * sent.chunks > 10_000
        assert cut > 0
