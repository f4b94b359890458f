"""Authenticated peers that ask and never read, or send their requests byte by byte."""

from __future__ import annotations

import ssl
import time
from contextlib import ExitStack, suppress

import pytest

from keyd.rpc import limits
from keyd_protos.v1 import signing_pb2
from tests.daemon import REPOSITORY
from tests.faults.bystanders import bystanders
from tests.http2 import INITIAL_WINDOW_SIZE, Connection, whole_call
from tests.tally import Promise, tallied
from tests.tls_sites import Target

LIMIT_S = 60.0
MIB = 2**20
GET_SIGNATURE = "/keyd.v1.SigningService/GetSignature"


def record_a_large_payload(target: Target) -> bytes:
    """A request whose answer has about a mebibyte."""
    recorder = target.installation.recorder("admin")
    files = {
        f"team-a/{number:06}": {"length": 1, "hashes": {"sha256": "ab" * 32}}
        for number in range(8_000)
    }
    recorder.sign("team-a", "team-a", recorder.writer.targets(1, targets=files))
    assert len(recorder.receipts[-1].payload) > 0.8 * MIB
    request = signing_pb2.GetSignatureRequest(repository=REPOSITORY, role="team-a", version=1)
    return request.SerializeToString()


def closed_after(peers: list[ssl.SSLSocket], began: float) -> list[float]:
    """When each was hung up on; whatever was sent to it is thrown away only now."""
    times = []
    for peer in peers:
        with suppress(OSError):
            while peer.recv(MIB):
                pass
        times.append(time.monotonic() - began)
    return times


@pytest.mark.slow(seconds=60)
def test_answers_that_are_never_read(target: Target) -> None:
    """60 calls on each of ten connections, whose answers are a mebibyte each and have no window."""
    request, context = record_a_large_payload(target), target.door.context()
    calls = b"".join(whole_call(GET_SIGNATURE, stream, request) for stream in range(1, 120, 2))
    with (
        tallied(Promise.NO_STARVATION, "answers that are never read") as tally,
        bystanders(target.installation) as others,
        ExitStack() as stack,
    ):
        others.wait_for(5)
        before, began, peers = target.process.memory_mib, time.monotonic(), []
        most = 0.0
        for _ in range(10):
            peer = stack.enter_context(target.door.tls(LIMIT_S, context))
            Connection(peer, {INITIAL_WINDOW_SIZE: 0}).send(calls)
            peers.append(peer)
            tally.injected(60)
            others.wait_for(3)
            most = max(most, target.process.memory_mib - before)
        closed = closed_after(peers, began)
        tally.recovered(max(closed))
    print(f"unread answers: {most:+.1f} MiB at most, closed after {max(closed):.1f} s; {others}")
    assert most < 100
    assert max(closed) < limits.SEND_TIMEOUT_S + 20
    others.check()
