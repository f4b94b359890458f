"""The life of one token: start its worker, log in once, look after it, recover, give way.

One thread per token does all of it in order, so that no two recoveries or logins ever overlap.
Ending a worker that hangs is not its task: the fleet's watchdog does that, and this thread, which
may be waiting for the same worker, is set free by it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import structlog

from keyd.backends import refusals
from keyd.backends.calls import not_started, unlock_unanswered
from keyd.backends.channel import Channel
from keyd.backends.config import TokenConfig
from keyd.backends.dialogue import Dialogue
from keyd.backends.holdings import Holdings
from keyd.backends.ladder import FAILURES, Ladder, words_for
from keyd.backends.link import WorkerLink
from keyd.backends.news import (
    Lost,
    News,
    Recheck,
    Release,
    Stop,
    Trouble,
    Unlock,
    news_of,
)
from keyd.backends.pins import NotReady, PinRules
from keyd.backends.queue import RequestQueue
from keyd.backends.state import StateBoard, described
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
        ask = Dialogue(config, uri, self.queue)
        self.holdings = Holdings(config, journal, ask, board)
        pins = PinRules(config.name, journal, board.now)
        self._ladder = Ladder(config, self._link, ask, self.holdings, pins)
        self._inbox: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._quarantined = False
        self._quarantines = 0
        self._recording = threading.Lock()  # of quarantines and releases, one after the other
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
        wanted = Unlock(pin, Future())
        self._inbox.put(wanted)
        try:
            return wanted.done.result(timeout_s)
        except TimeoutError as error:
            if wanted.done.cancel():
                wanted.wipe_pin()
                raise not_started() from error
            raise unlock_unanswered(self._config.name) from error

    def recheck(self) -> None:
        """Compare token and catalogue soon."""
        self._inbox.put(Recheck())

    def quarantine(self, reason: str) -> None:
        """Stop using the token at once: a worker that is killed signs nothing more."""
        self._stop_using(reason)
        with self._recording:
            # Once more: a release that was under way may have been served in between.
            self._stop_using(reason)
            self._journal.record_quarantine(self._config.name, reason)

    def release(self) -> None:
        """Lift the quarantine as it is now: one that begins later stays."""
        with self._recording:
            lifted = self._quarantines
            self._journal.record_quarantine(self._config.name, None)
        self._inbox.put(Release(lifted))

    def _stop_using(self, reason: str) -> None:
        with self._board.lock:
            self._quarantined = True
            self._quarantines += 1
            self._board.enter(TokenState.QUARANTINED, reason)
            self.queue.refuse(self._refusal)
        self._link.kill()

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
        self._inbox.put(Stop())
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._link.kill()
            self._thread.join(_STEADY_S)

    # --- the thread -----------------------------------------------------------------------------

    def _live(self) -> None:
        self._guard(self._begin)
        while not isinstance(message := self._next_message(), Stop):
            self._guard(partial(self._handle, message))
        self._link.end(force=False)
        self._rest(NotReady(TokenState.OFFLINE, "stopped"))

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        # The edge of the thread: a fault of keyd's own must not leave the token unattended.
        except Exception:  # noqa: BLE001
            _log.exception("token_thread_fault", token=self._config.name)
            self._link.end()
            self._rest(NotReady(TokenState.OFFLINE, "keyd itself failed; see its log"))

    def _begin(self) -> None:
        if reason := self._recorded_quarantine():
            with self._board.lock:
                self._quarantined = True
            self._rest(NotReady(TokenState.QUARANTINED, reason))
        else:
            self._bring_up()

    def _recorded_quarantine(self) -> str | None:
        try:
            return self._journal.quarantined(self._config.name)
        except KeydError as error:
            return f"the record of quarantines cannot be read: {error.message}"

    def _next_message(self) -> News | None:
        if self._quarantined or self._board.status.state in _PIN_STATES:
            return self._inbox.get()
        try:
            return self._inbox.get(timeout=max(self._due - time.monotonic(), 0.001))
        except queue.Empty:
            return None

    def _handle(self, message: News | None) -> None:
        match message:
            case Unlock():
                self._answer_unlock(message)
            case Release() if self._lift(message.quarantines):
                self._recover("released from quarantine")
            case _ if self._quarantined:
                self._link.end()
            case Lost() if self._link.is_current(message.channel):
                self._link.end()
                self._recover(message.reason)
            case Trouble() if self._board.status.state is TokenState.ONLINE:
                self._on_trouble(message.code)
            case Recheck() if self._board.status.state is TokenState.ONLINE:
                self.holdings.expire()
                self._look_after(self.holdings.check_what_is_due)
            case None:
                self._look()

    def _lift(self, quarantines: int) -> bool:
        """Whether a release lifted a quarantine: not one that began after it was asked for."""
        with self._board.lock:
            lifted = self._quarantined and quarantines == self._quarantines
            self._quarantined = self._quarantined and not lifted
            return lifted

    def _look(self) -> None:
        """What is due: the next try of a token that is away, a look at one that is here."""
        if self._board.status.state is not TokenState.ONLINE:
            self._bring_up()
        elif self.queue.idle():
            self._look_after(self.holdings.check_what_is_due)
        else:
            # Who signs needs no probe.
            self._look_after(self.holdings.check_set_aside)

    def _look_after(self, check: Callable[[float], None]) -> None:
        now = time.monotonic()
        self._due = now + self._config.probe_interval_s
        problem = self._problem_of(lambda: check(now))
        if problem is not None:
            self._recover(words_for(problem))

    def _on_trouble(self, code: str) -> None:
        """A request failed: is it the token, or only that request?"""
        self._held_at = time.monotonic()
        if self._problem_of(self.holdings.check_all) is None:
            self._serve()
        else:
            self._recover(code)

    def _problem_of(self, check: Callable[[], None]) -> Exception | None:
        """What a check of the token found, if it is a reason to recover."""
        try:
            check()
        except SelfCheckFailed as error:
            self._quarantine_here(error.message)
        except KeydError as error:
            # The ledger's trouble, which a new login would not mend.
            _log.warning("token_unchecked", token=self._config.name, why=error.message)
        except FAILURES as error:
            return error
        return None

    def _quarantine_here(self, reason: str) -> None:
        """On the token's own thread, which a ledger that is away must not end."""
        try:
            self.quarantine(reason)
        except KeydError as error:
            _log.error("token_quarantine_unrecorded", token=self._config.name, why=error.message)
        self.settled.set()

    # --- recovery -------------------------------------------------------------------------------

    def _recover(self, reason: str) -> None:
        """At once after a while of good service, later and later when it fails again and again."""
        self._hold(reason)
        if time.monotonic() - self._online_at > _STEADY_S:
            self._delay_s = 0.0
            self._bring_up()
        else:
            self._wait_longer()

    def _wait_longer(self) -> None:
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _LAST_DELAY_S)
        self._due = time.monotonic() + self._delay_s

    def _bring_up(self, operator: Login | None = None) -> NotReady | None:
        """Climb from whatever there is to ONLINE; returns what stopped it, if anything did."""
        try:
            with self._starting:
                self._begin_service(self._ladder.climb(operator))
            return None
        except NotReady as why:
            stopped = why
        except SelfCheckFailed as error:
            self._quarantine_here(error.message)
            return NotReady(TokenState.QUARANTINED, error.message)
        except FAILURES as error:
            stopped = NotReady(TokenState.OFFLINE, words_for(error))
        if stopped.spent:
            self._link.end()
        self._rest(stopped)
        return stopped

    def _begin_service(self, opened: Opened) -> None:
        self._sessions = opened.sessions
        self._board.describe(lambda status: described(status, opened))
        self._online_at = time.monotonic()
        self._serve()
        if self._quarantined:
            self._link.end()

    def _hold(self, reason: str) -> None:
        """RECOVERING: callers wait a little."""
        with self._board.lock:
            if not self._quarantined:
                self._held_at = time.monotonic()
                self._board.enter(TokenState.RECOVERING, reason)
                self.queue.hold()

    def _rest(self, stopped: NotReady) -> None:
        """Settle in the state that says why the token is not ONLINE, and when to try again."""
        self._wait_longer()
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
                # In this order: whoever reads ONLINE is served.
                self.queue.run(self._sessions)
                self._board.enter(TokenState.ONLINE, "")
        self.settled.set()

    # --- news -----------------------------------------------------------------------------------

    def _lost(self, channel: Channel, reason: str) -> None:
        self._inbox.put(Lost(channel, reason))

    def _troubled(self, request: Request, failure: Failure) -> bool:
        news = news_of(request, failure, self.holdings.seen)
        if news is not None:
            self._inbox.put(news)
        return isinstance(news, Trouble)

    def _refusal(self) -> KeydError:
        return refusals.for_state(self._board.status)

    # --- operators ------------------------------------------------------------------------------

    def _answer_unlock(self, message: Unlock) -> None:
        if not message.done.set_running_or_notify_cancel():
            return
        try:
            message.done.set_result(self._unlock(message.pin))
        except KeydError as error:
            message.done.set_exception(error)
        finally:
            message.wipe_pin()

    def _unlock(self, pin: bytearray | None) -> TokenStatus:
        if self._quarantined:
            raise self._refusal()
        # While logged in, C_Login does not even look at the PIN: there is nothing to try.
        if self._board.status.state is TokenState.ONLINE:
            kept_back = self._ladder.kept_back()
            tried = "logged in already: no PIN was tried" + (kept_back and f"; {kept_back}")
            return replace(self._board.status, detail=tried)
        stopped = self._bring_up(self._ladder.operator_login(pin))
        if stopped is not None and stopped.reason:
            raise PinRejected(stopped.reason, f"token {self._config.name}: {stopped.detail}")
        if stopped is not None:
            raise self._refusal()
        return replace(self._board.status, detail=self._ladder.kept_back())
