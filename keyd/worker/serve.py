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
from collections.abc import Callable

from google.protobuf.message import DecodeError
from pkcs11.exceptions import PKCS11Error

from keyd.wire.frames import MAX_REQUESTS_PER_FRAME, FrameBuffer, FrameError, encode_frame
from keyd.wire.worker_pb2 import (
    Failure,
    FromWorker,
    LoggedIn,
    Probed,
    Request,
    Response,
    Signed,
    ToWorker,
)
from keyd.worker import operations
from keyd.worker.failures import WorkerFailure, to_failure
from keyd.worker.hardening import Diagnostics, spies
from keyd.worker.schemes import is_rsa
from keyd.worker.token import ThreadSeat, Token

_RECEIVE_BYTES = 256 * 1024
# Answers wait this long for their neighbours, so that a slow token is seen to make progress.
_FLUSH_AFTER_S = 0.02
_FLUSH_BYTES = 256 * 1024
# What changes the login or the module's state: nothing else may run meanwhile.
_ALONE = frozenset({"open", "login", "reopen"})


class Server:
    """Serves one socket until it closes."""

    def __init__(self, sock: socket.socket, diagnostics: Diagnostics, development: bool) -> None:
        self._sock = sock
        self._diagnostics = diagnostics
        self._development = development
        self._token: Token | None = None
        self._turn = threading.Lock()
        self._writing = threading.Lock()
        self._buffer = FrameBuffer()
        self._waiting: deque[Request] = deque()
        self._seats: list[ThreadSeat] = []
        self._busy = 0
        self._rest = threading.Condition()

    def start(self) -> None:
        """Start the first session thread; more follow when the token is open."""
        self._start_thread(0)

    def finish(self, patience_s: float) -> None:
        """Wait for running requests, then C_Finalize; not while a thread is still in the module."""
        with self._rest:
            resting = self._rest.wait_for(lambda: self._busy == 0, patience_s)
        if resting and self._token is not None:
            try:
                self._token.module.finalize()
            except PKCS11Error:
                self._diagnostics.say("worker_finalize_failed")

    def _start_thread(self, number: int) -> None:
        threading.Thread(target=self._run, args=(number,), daemon=True).start()

    def _run(self, number: int) -> None:
        while True:
            with self._turn:
                batch = self._take()
                if not batch:
                    return
                if batch[0].WhichOneof("kind") in _ALONE:
                    self._rest_first()
                    self._answer(batch, None)
                    continue
                with self._rest:
                    self._busy += 1
            try:
                self._answer(batch, self._seats[number] if self._seats else None)
            finally:
                with self._rest:
                    self._busy -= 1
                    self._rest.notify_all()

    def _take(self) -> list[Request]:
        """This thread's share of what waits; empty when the daemon is gone or talks nonsense."""
        while not self._waiting:
            try:
                received = self._sock.recv(_RECEIVE_BYTES)
                self._buffer.feed(received)
                for message in self._buffer.messages():
                    self._waiting.extend(ToWorker.FromString(message).requests)
            except (FrameError, DecodeError):
                # Nothing after this can be understood: end the process.
                self._sock.shutdown(socket.SHUT_RDWR)
                return []
            except OSError:
                return []
            if not received:
                return []
        if self._waiting[0].WhichOneof("kind") in _ALONE:
            return [self._waiting.popleft()]
        return [self._waiting.popleft() for _ in range(self._share())]

    def _share(self) -> int:
        """How many of the first requests to take: all cheap ones, a fair part of slow ones."""
        ready = 0
        slow = False
        for request in self._waiting:
            kind = request.WhichOneof("kind")
            if kind in _ALONE or ready == MAX_REQUESTS_PER_FRAME:
                break
            ready += 1
            slow = slow or kind != "sign" or is_rsa(request.sign.key.scheme)
        return math.ceil(ready / max(len(self._seats), 1)) if slow else ready

    def _rest_first(self) -> None:
        with self._rest:
            self._rest.wait_for(lambda: self._busy == 0)

    def _answer(self, batch: list[Request], seat: ThreadSeat | None) -> None:
        answers = FromWorker()
        flushed = time.monotonic()
        waiting_bytes = 0
        for request in batch:
            started = time.monotonic()
            response = self._respond(request, seat)
            ended = time.monotonic()
            response.id = request.id
            response.spent_us = min(int((ended - started) * 1e6), 0xFFFFFFFF)
            answers.responses.append(response)
            waiting_bytes += len(response.signed.signature)
            if ended - flushed > _FLUSH_AFTER_S or waiting_bytes > _FLUSH_BYTES:
                self._send(answers)
                answers, flushed, waiting_bytes = FromWorker(), ended, 0
        if answers.responses:
            self._send(answers)

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

    def _respond(self, request: Request, seat: ThreadSeat | None) -> Response:
        try:
            return self._perform(request, seat)
        # The edge of the worker: nothing that a module makes Python raise may end this thread.
        except Exception as error:  # noqa: BLE001
            if seat is not None and not isinstance(error, WorkerFailure):
                seat.drop()
            return Response(failure=to_failure(error))

    def _perform(self, request: Request, seat: ThreadSeat | None) -> Response:
        kind = request.WhichOneof("kind")
        if kind == "open":
            return self._open(request)
        if self._token is None:
            raise WorkerFailure(Failure.KIND_INVALID, "NOT_OPEN")
        if kind == "reopen":
            self._token.reopen()
            return self._entered(self._token)
        if not self._token.entered:
            raise WorkerFailure(Failure.KIND_TOKEN_NOT_FOUND, "NOT_ENTERED")
        if kind == "login":
            return Response(logged_in=LoggedIn(pin=self._token.login(request.login)))
        if kind == "probe":
            return Response(probed=Probed(pin=self._token.probe()))
        if seat is None:
            raise WorkerFailure(Failure.KIND_INVALID, "NOT_OPEN")
        return _OPERATIONS[kind or ""](seat, request)

    def _open(self, request: Request) -> Response:
        if self._token is not None:
            raise WorkerFailure(Failure.KIND_INVALID, "ALREADY_OPEN")
        if not self._development and (spy := spies(request.open.module)):
            raise WorkerFailure(Failure.KIND_INVALID, f"SPY_{spy}")
        self._token = Token(request.open)
        self._token.enter()
        return self._entered(self._token)

    def _entered(self, token: Token) -> Response:
        """Give each thread a session; fewer threads if the token does not have as many."""
        if not self._seats:
            self._seats = _seats(token)
            for number in range(1, len(self._seats)):
                self._start_thread(number)
        opened = token.describe()
        opened.sessions = len(self._seats)
        return Response(opened=opened)


def _seats(token: Token) -> list[ThreadSeat]:
    seats = [ThreadSeat(token)]
    seats[0].session()
    try:
        while len(seats) < token.sessions:
            seat = ThreadSeat(token)
            seat.session()
            seats.append(seat)
    except PKCS11Error:
        # The token's limit, whatever it said of itself. The last one stays free to generate keys.
        if len(seats) > 1:
            seats.pop().drop()
    return seats


def _too_large(answers: FromWorker) -> FromWorker:
    failure = Failure(kind=Failure.KIND_TOKEN_FAILED, code="ANSWER_TOO_LARGE")
    return FromWorker(
        responses=[Response(id=each.id, failure=failure) for each in answers.responses]
    )


def _sign(seat: ThreadSeat, request: Request) -> Response:
    return Response(signed=Signed(signature=operations.sign(seat, request.sign)))


_OPERATIONS: dict[str, Callable[[ThreadSeat, Request], Response]] = {
    "sign": _sign,
    "generate": lambda seat, request: Response(
        key_pair=operations.generate(seat, request.generate)
    ),
    "find": lambda seat, request: Response(key_pair=operations.find(seat, request.find.cka_id)),
    "inventory": lambda seat, _: Response(key_pairs=operations.inventory(seat)),
}
