"""A daemon that is killed in the middle of things and started again on the same state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

from keyd_client import Client
from tests.daemon import Installation
from tests.running import Daemon

T = TypeVar("T")
_DEATH_S = 30.0
_END_S = 80.0


class Crashing:
    """Dies by SIGKILL at a place such as "sign.after_token:1" each time it is armed."""

    def __init__(self, installation: Installation, place: str) -> None:
        self.installation = installation
        self._place = place
        self._daemon = self._start()

    def __enter__(self) -> Crashing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._daemon.__exit__(kind, error, trace)

    def interrupt(self, client: Client, call: Callable[[], T]) -> BaseException | None:
        """Let the daemon die under a call of `client`, which dies as well; start it again.

        Returns how the call ended. A daemon that survives fails the test.
        """
        error = self.die(client, call)
        self._daemon = self._start()
        return error

    def die(self, client: Client, call: Callable[[], T]) -> BaseException | None:
        """`interrupt` without the new start."""
        future = self._die_under(call)
        with client.connection.lease() as opened:
            opened.channel.close()
        return future.exception(_END_S)

    def outlive(self, call: Callable[[], T]) -> T:
        """Let the daemon die under a call that goes on when it is back; returns its result."""
        future = self._die_under(call)
        self._daemon = self._start()
        return future.result(_END_S)

    def _die_under(self, call: Callable[[], T]) -> Future[T]:
        self.installation.arm()
        future = _begun(call)
        try:
            code = self._daemon.running.wait(_DEATH_S)
        finally:
            self.installation.disarm()
        assert code == -signal.SIGKILL, self._daemon.log.read_text()[-3000:]
        return future

    def _start(self) -> Daemon:
        daemon = self.installation.serve(self._place).__enter__()
        daemon.wait_for("daemon_ready")
        return daemon


def _begun(call: Callable[[], T]) -> Future[T]:
    """In a thread that nobody waits for: one that hangs inside gRPC must not hold the test."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        # Handed on to whoever asks for the result.
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
