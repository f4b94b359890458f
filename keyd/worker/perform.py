"""Requests become responses: which operation, on which token, and what its failure is called."""

from __future__ import annotations

from collections.abc import Callable

from pkcs11.exceptions import PKCS11Error

from keyd.wire.worker_pb2 import (
    Destroyed,
    Failure,
    LoggedIn,
    Open,
    Probed,
    Request,
    Response,
    Signed,
)
from keyd.worker import operations
from keyd.worker.destroy import destroy
from keyd.worker.failures import WorkerFailure, to_failure
from keyd.worker.hardening import spies
from keyd.worker.token import ThreadSeat, Token

# What changes the login or the module's state: nothing else may run meanwhile.
ALONE = frozenset({"open", "login", "reopen"})


class Performer:
    """The token of this process and a seat for each thread that may use it.

    `refusal` says, if not empty, why this process must not load a module.
    """

    def __init__(self, *, development: bool, refusal: str = "") -> None:
        self._development = development
        self._refusal = refusal
        self._token: Token | None = None
        self.seats: list[ThreadSeat] = []

    def perform(self, request: Request, thread: int) -> Response:
        """The answer to `request` by thread number `thread`; never raises."""
        seat = self.seats[thread] if thread < len(self.seats) else None
        try:
            return self._perform(request, seat)
        # The edge of the worker: nothing that a module makes Python raise may end a thread.
        except Exception as error:  # noqa: BLE001
            if seat is not None and not isinstance(error, WorkerFailure):
                seat.drop()
            return Response(failure=to_failure(error))

    def finalize(self) -> None:
        """C_Finalize, if a module was loaded. Raises: PKCS11Error."""
        if self._token is not None:
            self._token.module.finalize()

    def _perform(self, request: Request, seat: ThreadSeat | None) -> Response:
        kind = request.WhichOneof("kind") or ""
        if kind == "open":
            return self._open(request.open)
        token = self._token
        if token is None:
            raise WorkerFailure(Failure.KIND_INVALID, "NOT_OPEN")
        if kind == "reopen":
            token.reopen()
            return self._entered(token)
        if not token.entered:
            raise WorkerFailure(Failure.KIND_TOKEN_NOT_FOUND, "NOT_ENTERED")
        if kind == "login":
            return Response(logged_in=LoggedIn(pin=token.login(request.login)))
        if kind == "probe":
            return Response(probed=Probed(pin=token.probe()))
        if seat is None or kind not in _OPERATIONS:
            raise WorkerFailure(Failure.KIND_INVALID, "REQUEST")
        return _OPERATIONS[kind](seat, request)

    def _open(self, request: Open) -> Response:
        if self._token is not None:
            raise WorkerFailure(Failure.KIND_INVALID, "ALREADY_OPEN")
        if self._refusal:
            raise WorkerFailure(Failure.KIND_INVALID, self._refusal)
        if not self._development and (spy := spies(request.module)):
            raise WorkerFailure(Failure.KIND_INVALID, f"SPY_{spy}")
        self._token = Token(request)
        self._token.enter()
        return self._entered(self._token)

    def _entered(self, token: Token) -> Response:
        """Give each thread a session; fewer threads if the token does not have as many."""
        self.seats = self.seats or _seats(token)
        opened = token.describe()
        opened.sessions = len(self.seats)
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


def _sign(seat: ThreadSeat, request: Request) -> Response:
    return Response(signed=Signed(signature=operations.sign(seat, request.sign)))


def _destroy(seat: ThreadSeat, request: Request) -> Response:
    return Response(destroyed=Destroyed(objects=destroy(seat, request.destroy.key)))


_OPERATIONS: dict[str, Callable[[ThreadSeat, Request], Response]] = {
    "sign": _sign,
    "generate": lambda seat, request: Response(
        key_pair=operations.generate(seat, request.generate)
    ),
    "destroy": _destroy,
    "find": lambda seat, request: Response(key_pair=operations.find(seat, request.find.cka_id)),
    "inventory": lambda seat, _: Response(key_pairs=operations.inventory(seat)),
}
