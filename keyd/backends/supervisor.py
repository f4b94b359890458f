"""The life of one token: start its worker, log in once, look after it, recover, give way.

One thread per token does all of it in order, so that no two recoveries or logins ever overlap.
Ending a worker that hangs is not its task: the fleet's watchdog does that, and this thread, which
may be waiting for the same worker, is set free by it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import structlog

from keyd.backends import refusals
from keyd.backends.calls import unknown_outcome
from keyd.backends.channel import Channel
from keyd.backends.config import TokenConfig, credential_file
from keyd.backends.dialogue import Dialogue, WorkerLost, WorkerRefused
from keyd.backends.holdings import Holdings
from keyd.backends.link import WorkerLink
from keyd.backends.pins import NotReady, PinRules
from keyd.backends.queue import RequestQueue
from keyd.backends.state import StateBoard
from keyd.domain.keys import Scheme
from keyd.domain.token_uri import TokenUri
from keyd.domain.tokens import TokenState, TokenStatus
from keyd.errors import BackendUnavailable, KeydError, PinRejected, SelfCheckFailed
from keyd.ports import TokenJournal
from keyd.wire.worker_pb2 import Failure, Login, Opened, Request

_log = structlog.get_logger(__name__)

_FIRST_DELAY_S = 0.25
_LAST_DELAY_S = 2.0
_STEADY_S = 5.0
# How long callers are kept waiting for a recovery before they are told to come back.
_GRACE_S = 1.5
_PIN_STATES = (TokenState.PIN_REQUIRED, TokenState.PIN_LOCKED)
_FAILURES = (NotReady, KeydError, WorkerRefused, WorkerLost)


@dataclass(frozen=True)
class _Trouble:
    """A request failed in a way that may mean the token."""

    code: str


@dataclass(frozen=True)
class _Lost:
    """A worker's socket closed."""

    channel: Channel
    reason: str


@dataclass(frozen=True)
class _Recheck:
    """The keys on the token may have changed."""


@dataclass(frozen=True)
class _Unlock:
    """An operator wants a login."""

    pin: bytearray | None
    done: Future[TokenStatus]


@dataclass(frozen=True)
class _Release:
    """A quarantine was lifted."""


@dataclass(frozen=True)
class _Stop:
    """The daemon ends."""


_Message = _Trouble | _Lost | _Recheck | _Unlock | _Release | _Stop


class Supervisor:
    """Owns the worker of one token; callers put their requests into `queue`."""

    def __init__(
        self,
        config: TokenConfig,
        uri: TokenUri,
        *,
        journal: TokenJournal,
        board: StateBoard,
        starting: AbstractContextManager[object],
        command: Sequence[str],
    ) -> None:
        self._config = config
        self._journal = journal
        self._board = board
        self._starting = starting
        self.queue = RequestQueue(config.queue_requests, config.queue_bytes, self._troubled)
        self._link = WorkerLink(config, command, self.queue, self._lost)
        self._ask = Dialogue(config, uri, self.queue)
        self.holdings = Holdings(config, journal, self._ask, board)
        self._pins = PinRules(config.name, journal, board.now)
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._quarantined = False
        self._sessions = 1
        self._delay_s = 0.0
        self._due = 0.0
        self._online_at = 0.0
        self._held_at: float | None = None
        self.settled = threading.Event()
        self._thread = threading.Thread(
            target=self._live, name=f"keyd-token-{config.name}", daemon=True
        )

    # --- from other threads ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin; the first state other than RECOVERING sets `settled`."""
        self._hold("starting")
        self._thread.start()

    def unlock(self, pin: bytearray | None, timeout_s: float) -> TokenStatus:
        """Log in as an operator asked. Raises: PinRejected, BackendUnavailable, KeydError."""
        done: Future[TokenStatus] = Future()
        self._inbox.put(_Unlock(pin, done))
        try:
            return done.result(timeout_s)
        except TimeoutError as error:
            if done.cancel():
                _wipe(pin)
            raise unknown_outcome() from error

    def recheck(self) -> None:
        """Compare token and catalogue soon."""
        self._inbox.put(_Recheck())

    def quarantine(self, reason: str) -> None:
        """Stop using the token at once: a worker that is killed signs nothing more."""
        with self._board.lock:
            self._quarantined = True
            self._board.enter(TokenState.QUARANTINED, reason)
            self.queue.refuse(self._refusal)
        self._link.kill()
        self._journal.record_quarantine(self._config.name, reason)

    def release(self) -> None:
        """Lift a quarantine."""
        self._journal.record_quarantine(self._config.name, None)
        self._inbox.put(_Release())

    def watch(self, now: float) -> None:
        """The watchdog's look: end a hung worker, free the callers of a slow recovery."""
        self._link.kill_if_hung(now)
        held_at = self._held_at
        if held_at is not None and now - held_at > _GRACE_S:
            with self._board.lock:
                if self._held_at is not None:
                    self.queue.refuse(self._refusal)

    def drain(self, deadline: float) -> None:
        """Take no more requests; wait until `deadline` (monotonic) for those under way."""
        self.queue.drain(
            lambda: BackendUnavailable("DRAINING", "keyd is stopping; retry elsewhere or later")
        )
        self.queue.wait_idle(deadline)

    def stop(self, deadline: float) -> None:
        """End worker and thread."""
        self._inbox.put(_Stop())
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._link.kill()
            self._thread.join(_STEADY_S)

    # --- the thread -----------------------------------------------------------------------------

    def _live(self) -> None:
        if reason := self._recorded_quarantine():
            with self._board.lock:
                self._quarantined = True
            self._rest(NotReady(TokenState.QUARANTINED, reason))
        else:
            self._bring_up()
        while not isinstance(message := self._next_message(), _Stop):
            self._handle(message)
        self._link.end(force=False)
        self._rest(NotReady(TokenState.OFFLINE, "stopped"))

    def _recorded_quarantine(self) -> str | None:
        try:
            return self._journal.quarantined(self._config.name)
        except KeydError as error:
            return f"the record of quarantines cannot be read: {error.message}"

    def _next_message(self) -> _Message | None:
        if self._quarantined or self._board.status.state in _PIN_STATES:
            return self._inbox.get()
        try:
            return self._inbox.get(timeout=max(self._due - time.monotonic(), 0.001))
        except queue.Empty:
            return None

    def _handle(self, message: _Message | None) -> None:
        match message:
            case _Unlock():
                self._answer_unlock(message)
            case _Release():
                self._quarantined = False
                self._recover("released from quarantine")
            case _ if self._quarantined:
                self._link.end()
            case _Lost() if self._link.is_current(message.channel):
                self._link.end()
                self._recover(message.reason)
            case _Trouble() if self._board.status.state is TokenState.ONLINE:
                self._on_trouble(message.code)
            case _Recheck() if self._board.status.state is TokenState.ONLINE:
                self.holdings.expire()
                self._look()
            case None:
                self._look()

    def _look(self) -> None:
        """What is due: the next try of a token that is away, a look at one that is here."""
        if self._board.status.state is not TokenState.ONLINE:
            self._bring_up()
            return
        now = time.monotonic()
        self._due = now + self._config.probe_interval_s
        if not self.queue.idle():
            return
        try:
            self.holdings.check_what_is_due(now)
        except SelfCheckFailed as error:
            self.quarantine(error.message)
        except _FAILURES as error:
            self._recover(_words(error))

    def _on_trouble(self, code: str) -> None:
        """A request failed: is it the token, or only that request?"""
        self._held_at = time.monotonic()
        try:
            self.holdings.check_canary()
            self.holdings.take_stock()
        except SelfCheckFailed as error:
            self.quarantine(error.message)
        except _FAILURES:
            self._recover(code)
        else:
            self._serve()

    # --- recovery -------------------------------------------------------------------------------

    def _recover(self, reason: str) -> None:
        self._hold(reason)
        if self._online_at and time.monotonic() - self._online_at > _STEADY_S:
            self._delay_s = 0.0
        if self._delay_s:
            self._due = time.monotonic() + self._delay_s
        else:
            self._bring_up()

    def _bring_up(self, operator: Login | None = None) -> NotReady | None:
        """Climb from whatever there is to ONLINE; returns what stopped it, if anything did."""
        try:
            with self._starting:
                self._climb(operator)
            return None
        except NotReady as why:
            stopped = why
        except SelfCheckFailed as error:
            self.quarantine(error.message)
            stopped = NotReady(TokenState.QUARANTINED, error.message)
        except (KeydError, WorkerRefused, WorkerLost, OSError) as error:
            stopped = NotReady(TokenState.OFFLINE, _words(error))
        if stopped.spent:
            self._link.end()
        self._rest(stopped)
        return stopped

    def _climb(self, operator: Login | None) -> None:
        opened = self._open()
        self.holdings.check_identity(opened)
        if opened.login_required:
            self._log_in(opened, operator)
        self.holdings.take_stock()
        self.holdings.check_canary()
        self.holdings.pin_identity(opened)
        self._sessions = opened.sessions
        self._board.describe(lambda status: _described(status, opened))
        self._online_at = time.monotonic()
        self._delay_s = max(self._delay_s, _FIRST_DELAY_S)
        self._serve()

    def _open(self) -> Opened:
        """A module that has found the token: by step 4 of the ladder, else by step 5."""
        if self._link.up:
            try:
                return self._ask.reopen()
            except (WorkerRefused, WorkerLost) as error:
                if _not_there(error):
                    raise
                self._link.end()
        self._link.spawn()
        try:
            return self._ask.open()
        except (WorkerRefused, WorkerLost) as error:
            if not _not_there(error):
                self._link.end()
            raise

    def _log_in(self, opened: Opened, operator: Login | None) -> None:
        if operator is not None:
            source = operator.WhichOneof("pin") or ""
            self._pins.operator_login(operator, source, self._ask.login)
        else:
            self.holdings.demand_shown_keys()
            credential = credential_file(self._config, os.environ)
            self._pins.machine_login(credential, opened.pin, self._ask.login)
        _log.info("token_logged_in", token=self._config.name)

    def _hold(self, reason: str) -> None:
        """RECOVERING: callers wait a little."""
        with self._board.lock:
            if not self._quarantined:
                self._held_at = time.monotonic()
                self._board.enter(TokenState.RECOVERING, reason)
                self.queue.hold()

    def _rest(self, stopped: NotReady) -> None:
        """Settle in the state that says why the token is not ONLINE, and when to try again."""
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _LAST_DELAY_S)
        self._due = time.monotonic() + self._delay_s
        with self._board.lock:
            if not self._quarantined or stopped.state is TokenState.QUARANTINED:
                self._board.enter(stopped.state, stopped.detail)
            self._held_at = None
            self.queue.refuse(self._refusal)
        self.settled.set()

    def _serve(self) -> None:
        """ONLINE."""
        self._due = time.monotonic() + self._config.probe_interval_s
        with self._board.lock:
            self._held_at = None
            if not self._quarantined:
                self._board.enter(TokenState.ONLINE, "")
                self.queue.run(self._sessions)
        self.settled.set()

    # --- news -----------------------------------------------------------------------------------

    def _lost(self, channel: Channel, reason: str) -> None:
        self._inbox.put(_Lost(channel, reason))

    def _troubled(self, request: Request, failure: Failure) -> bool:
        """Whether a caller's failed request means that the token needs attention."""
        kind = request.WhichOneof("kind")
        if kind == "generate":
            # A full token says the same as a broken one: look, but go on serving.
            self._inbox.put(_Recheck())
            return False
        if failure.kind in (Failure.KIND_TOKEN_FAILED, Failure.KIND_NOT_LOGGED_IN):
            self._inbox.put(_Trouble(failure.code))
            return True
        key = request.sign.key
        if failure.kind == Failure.KIND_KEY_NOT_FOUND and kind == "sign":
            lost = (key.cka_id, key.public_der) in self.holdings.seen
            self._inbox.put(_Trouble(failure.code) if lost else _Recheck())
            return lost
        if failure.kind in (Failure.KIND_KEY_AMBIGUOUS, Failure.KIND_PAIR_BROKEN):
            self._inbox.put(_Recheck())
        return False

    def _refusal(self) -> KeydError:
        return refusals.for_state(self._board.status)

    # --- operators ------------------------------------------------------------------------------

    def _answer_unlock(self, message: _Unlock) -> None:
        if not message.done.set_running_or_notify_cancel():
            return
        try:
            message.done.set_result(self._unlock(message.pin))
        except KeydError as error:
            message.done.set_exception(error)
        finally:
            _wipe(message.pin)

    def _unlock(self, pin: bytearray | None) -> TokenStatus:
        if self._quarantined:
            raise self._refusal()
        # While logged in, C_Login does not even look at the PIN: there is nothing to try.
        if self._board.status.state is not TokenState.ONLINE:
            stopped = self._bring_up(self._operator_login(pin))
            if stopped is not None and stopped.reason:
                raise PinRejected(stopped.reason, f"token {self._config.name}: {stopped.detail}")
            if stopped is not None:
                raise self._refusal()
        return self._board.status

    def _operator_login(self, pin: bytearray | None) -> Login:
        if pin is not None:
            return Login(typed=bytes(pin))
        credential = credential_file(self._config, os.environ)
        if credential is None:
            raise PinRejected(
                "PIN_WANTED", f"token {self._config.name} has no pin_source; type its PIN"
            )
        return Login(credential_file=credential)


def _wipe(pin: bytearray | None) -> None:
    if pin is not None:
        pin[:] = bytes(len(pin))


def _not_there(error: WorkerRefused | WorkerLost) -> bool:
    return isinstance(error, WorkerRefused) and error.failure.kind == Failure.KIND_TOKEN_NOT_FOUND


def _words(error: Exception) -> str:
    match error:
        case NotReady():
            return error.detail
        case KeydError():
            return error.message
        case WorkerRefused() if _not_there(error):
            return f"the token is not there ({error.failure.code})"
        case WorkerRefused():
            return f"the module failed ({error.failure.code})"
        case WorkerLost():
            return f"the worker was lost: {error}"
    return f"the worker cannot be started ({type(error).__name__})"


def _described(status: TokenStatus, opened: Opened) -> TokenStatus:
    known = {scheme.value for scheme in Scheme}
    return replace(
        status,
        serial=opened.serial,
        label=opened.label,
        manufacturer=opened.manufacturer,
        model=opened.model,
        firmware=opened.firmware_version,
        schemes=tuple(Scheme(name) for name in opened.schemes if name in known),
    )
