"""The worker's threads: each takes a group of requests in turn, answers it, and comes back.

No queue and no hand-over between threads: whoever holds the turn reads the socket, takes a share
and passes the turn on, so one request costs one wake-up and a full socket costs one as well.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import takewhile

from google.protobuf.message import DecodeError
from pkcs11.exceptions import PKCS11Error

from keyd.wire.frames import MAX_REQUESTS_PER_FRAME, FrameBuffer, FrameError, encode_frame
from keyd.wire.worker_pb2 import Failure, FromWorker, Request, Response, ToWorker
from keyd.worker.hardening import Diagnostics
from keyd.worker.perform import ALONE, Performer

_RECEIVE_BYTES = 256 * 1024
# Answers wait this long for their neighbours, so that a slow token is seen to make progress.
_FLUSH_AFTER_S = 0.02
_FLUSH_BYTES = 256 * 1024
# Below this a signature is mostly Python's own work: a second thread only fights for the GIL.
_BRISK_S = 0.0003


class Server:
    """Serves one socket until it closes."""

    def __init__(self, sock: socket.socket, performer: Performer, diagnostics: Diagnostics) -> None:
        self._sock = sock
        self._performer = performer
        self._diagnostics = diagnostics
        self._turn = threading.Lock()
        self._writing = threading.Lock()
        self._buffer = FrameBuffer()
        self._waiting: deque[Request] = deque()
        self._pace_s: dict[str, float] = {}
        self._threads = 0
        self._busy = 0
        self._rest = threading.Condition()

    def start(self) -> None:
        """Start the first session thread; more follow when the token is open."""
        self._staff(1)

    def finish(self, patience_s: float) -> None:
        """Wait for running requests, then C_Finalize; not while a thread is still in the module."""
        if not self._rests(patience_s):
            return
        try:
            self._performer.finalize()
        except PKCS11Error:
            self._diagnostics.say("worker_finalize_failed")

    def _staff(self, wanted: int) -> None:
        while self._threads < wanted:
            number, self._threads = self._threads, self._threads + 1
            threading.Thread(target=self._run, args=(number,), daemon=True).start()

    def _run(self, number: int) -> None:
        while True:
            with self._turn:
                batch = self._take()
                if not batch:
                    return
                alone = self._alone(batch[0])
                if alone:
                    self._rests(None)
                self._count(1)
                keeps_turn = alone or self._brisk(batch[0])
                if keeps_turn:
                    self._answer(batch, number)
                if alone:
                    self._staff(len(self._performer.seats))
            if not keeps_turn:
                self._answer(batch, number)
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._rest:
            self._busy += change
            self._rest.notify_all()

    def _rests(self, patience_s: float | None) -> bool:
        with self._rest:
            return self._rest.wait_for(lambda: self._busy == 0, patience_s)

    def _take(self) -> list[Request]:
        """This thread's share of what waits; empty when the daemon is gone or talks nonsense."""
        try:
            while not self._waiting:
                received = self._sock.recv(_RECEIVE_BYTES)
                if not received:
                    return []
                self._buffer.feed(received)
                for message in self._buffer.messages():
                    self._waiting.extend(ToWorker.FromString(message).requests)
        except (FrameError, DecodeError):
            # Nothing after this can be understood: end the process.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            return []
        except OSError:
            return []
        return [self._waiting.popleft() for _ in range(self._share())]

    def _share(self) -> int:
        """How many of the first requests to take: every brisk one, a fair part of others."""
        first = self._waiting[0]
        if self._alone(first):
            return 1
        brisk = self._brisk(first)
        alike = takewhile(
            lambda each: not self._alone(each) and self._brisk(each) == brisk, self._waiting
        )
        ready = min(sum(1 for _ in alike), MAX_REQUESTS_PER_FRAME)
        return ready if brisk else math.ceil(ready / self._threads)

    @staticmethod
    def _alone(request: Request) -> bool:
        return request.WhichOneof("kind") in ALONE

    def _brisk(self, request: Request) -> bool:
        return self._pace_s.get(request.sign.key.scheme, _BRISK_S) < _BRISK_S

    def _answer(self, batch: list[Request], number: int) -> None:
        answers = FromWorker()
        flushed = started = time.monotonic()
        waiting_bytes = 0
        for request in batch:
            response = self._performer.perform(request, number)
            ended = time.monotonic()
            response.id = request.id
            response.spent_us = min(int((ended - started) * 1e6), 0xFFFFFFFF)
            self._learn(request, response, ended - started)
            answers.responses.append(response)
            waiting_bytes += len(response.signed.signature)
            started = ended
            if ended - flushed > _FLUSH_AFTER_S or waiting_bytes > _FLUSH_BYTES:
                self._send(answers)
                answers, flushed, waiting_bytes = FromWorker(), ended, 0
        if answers.responses:
            self._send(answers)

    def _learn(self, request: Request, response: Response, spent_s: float) -> None:
        if response.WhichOneof("kind") == "signed":
            scheme = request.sign.key.scheme
            known = self._pace_s.get(scheme, spent_s)
            self._pace_s[scheme] = known + 0.1 * (spent_s - known)

    def _send(self, answers: FromWorker) -> None:
        try:
            frame = encode_frame(answers.SerializeToString())
        except FrameError:
            frame = encode_frame(_too_large(answers).SerializeToString())
        with self._writing:
            try:
                self._sock.sendall(frame)
            except OSError:
                self._diagnostics.say("worker_answer_lost", answers=len(answers.responses))


def _too_large(answers: FromWorker) -> FromWorker:
    failure = Failure(kind=Failure.KIND_TOKEN_FAILED, code="ANSWER_TOO_LARGE")
    return FromWorker(
        responses=[Response(id=each.id, failure=failure) for each in answers.responses]
    )
