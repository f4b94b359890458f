"""The worker's protocol at both ends: nonsense ends the conversation, never a thread.

The first byte says how the rest arrives in pieces. The daemon trusts its worker less than itself,
so a whole conversation is played: a queue with requests under way gets the bytes as answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from google.protobuf.message import DecodeError

from keyd.backends import refusals
from keyd.backends.dialogue import WorkerRefused
from keyd.backends.news import news_of
from keyd.backends.queue import RequestQueue
from keyd.backends.reconcile import reconcile, to_found
from keyd.wire.frames import FrameBuffer, FrameError, encode_frame
from keyd.wire.worker_pb2 import (
    Failure,
    FromWorker,
    Inventory,
    KeyReference,
    Probe,
    Request,
    Response,
    Sign,
    ToWorker,
)
from keyd.worker.perform import Performer

DICTIONARY = "frames.dict"


def check(data: bytes) -> None:
    step, stream = (data[0] or 256, data[1:]) if data else (1, b"")
    _check_reassembly(stream, step)
    _daemon_reads(stream, step)
    _worker_reads(stream, step)


def _messages(stream: bytes, step: int) -> Iterator[bytes]:
    """Raises: FrameError."""
    buffer = FrameBuffer()
    for start in range(0, len(stream), step):
        buffer.feed(stream[start : start + step])
        yield from buffer.messages()


def _check_reassembly(stream: bytes, step: int) -> None:
    """Pieces of any size give the same messages, which make the same stream."""
    whole, pieces = b"", b""
    with suppress(FrameError):
        for message in _messages(stream, len(stream) or 1):
            whole += encode_frame(message)
    with suppress(FrameError):
        for message in _messages(stream, step):
            pieces += encode_frame(message)
    assert whole == pieces
    assert stream.startswith(whole)


class _Recording:
    """A worker's socket from the daemon's side; what is sent is not needed."""

    def send(self, frame: bytes) -> None:
        assert frame


def _daemon_reads(stream: bytes, step: int) -> None:
    """As `Channel._read` does: only two errors may end the conversation."""
    queue = RequestQueue(16, 1 << 20, lambda request, failure: bool(_news(request, failure)))
    queue.attach(_Recording())  # type: ignore[arg-type]
    queue.run(2)
    reference = KeyReference(cka_id=b"1", public_der=b"2", scheme="ed25519")
    requests = [
        Request(sign=Sign(key=reference, data=b"data")),
        Request(inventory=Inventory()),
        Request(probe=Probe()),
    ]
    group = queue.submit(requests, 1.0, 1.0)
    with suppress(FrameError, DecodeError):
        for message in _messages(stream, step):
            queue.answered(FromWorker.FromString(message).responses)
    for outcome in group.outcomes:
        if isinstance(outcome, Response):
            _daemon_believes(queue, outcome)


def _news(request: Request, failure: Failure) -> object:
    return news_of(request, failure, set())


def _daemon_believes(queue: RequestQueue, response: Response) -> None:
    """What is done with an answer: by a caller, or by the token's own thread."""
    if response.HasField("failure"):
        assert refusals.for_failure("hsm", response.failure).reason
        assert str(WorkerRefused(response.failure))
    found = [to_found(pair) for pair in (response.key_pair, *response.key_pairs.pairs)]
    assert reconcile((), found).strays == len(found)
    if response.HasField("opened"):
        queue.run(response.opened.sessions)
        queue.submit([Request(probe=Probe())], 1.0, 1.0)


def _worker_reads(stream: bytes, step: int) -> None:
    """As `Server._take` does; no module is ever loaded here."""
    performer = Performer(development=False)
    with suppress(FrameError, DecodeError):
        for message in _messages(stream, step):
            for request in ToWorker.FromString(message).requests:
                if request.HasField("open"):
                    request.open.module = "/nonexistent/module.so"
                response = performer.perform(request, 0)
                assert response.HasField("failure")
                encode_frame(FromWorker(responses=[response]).SerializeToString())
