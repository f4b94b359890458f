"""A worker's socket never blocks who sends, and its end is told once."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterator, Sequence

import pytest

from keyd.backends.channel import Channel
from keyd.wire.frames import FrameError, encode_frame
from keyd.wire.worker_pb2 import FromWorker, Response

SOON_S = 10.0


class Ends:
    """A channel and the worker's side of its socket."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(SOON_S)
        self.answers: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.closings: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.channel = Channel(ours, self._answered, lambda _, reason: self.closings.put(reason))
        self.channel.start()

    def _answered(self, responses: Sequence[Response]) -> None:
        ids = [each.id for each in responses]
        if 666 in ids:
            raise FrameError("an answer without a question")
        self.answers.put(ids)

    def answer(self, *ids: int) -> None:
        message = FromWorker(responses=[Response(id=each) for each in ids])
        self.theirs.sendall(encode_frame(message.SerializeToString()))

    def closing(self) -> str:
        return self.closings.get(timeout=SOON_S)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.channel.close()
    ends.theirs.close()


def test_frames_and_answers_pass(ends: Ends) -> None:
    ends.channel.send(b"frame")
    assert ends.theirs.recv(100) == b"frame"
    ends.answer(1, 2)
    assert ends.answers.get(timeout=SOON_S) == [1, 2]


def test_a_peer_that_does_not_read_holds_nobody(ends: Ends) -> None:
    frames = [bytes([i]) * 1_000_000 for i in range(5)]
    started = time.monotonic()
    for frame in frames:
        ends.channel.send(frame)
    assert time.monotonic() - started < 2.0
    received = bytearray()
    while len(received) < 5_000_000:
        received += ends.theirs.recv(1 << 20)
    assert received == b"".join(frames)


def test_its_end_is_told_once_whoever_ends_it(ends: Ends) -> None:
    ends.channel.send(bytes(5_000_000))
    ends.theirs.close()
    assert ends.closing().startswith("the worker")
    ends.channel.close()
    ends.channel.send(b"too late")
    with pytest.raises(queue.Empty):
        ends.closings.get(timeout=0.05)


def test_closing_it_here_is_told_too(ends: Ends) -> None:
    ends.channel.close()
    assert ends.closing() == "the worker ended"
    assert ends.theirs.recv(1) == b""


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\0\0\0\4abcd"])
def test_nonsense_ends_it(nonsense: bytes, ends: Ends) -> None:
    ends.theirs.sendall(nonsense)
    assert "nonsense" in ends.closing()


def test_an_answer_that_nobody_asked_for_ends_it(ends: Ends) -> None:
    ends.answer(1)
    ends.answer(666)
    assert ends.answers.get(timeout=SOON_S) == [1]
    assert "nonsense" in ends.closing()
