"""A daemon that is killed in the middle of things and started again on the same state."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from keyd_client import Client
from tests.daemon import Installation
from tests.running import Daemon

T = TypeVar("T")
_DEATH_S = 30.0


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
        with ThreadPoolExecutor(1) as pool:
            future = self._die_under(pool, call)
            with client.connection.lease() as opened:
                opened.channel.close()
            return future.exception()

    def outlive(self, call: Callable[[], T]) -> T:
        """Let the daemon die under a call that goes on when it is back; returns its result."""
        with ThreadPoolExecutor(1) as pool:
            future = self._die_under(pool, call)
            self._daemon = self._start()
            return future.result()

    def _die_under(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> Future[T]:
        self.installation.arm()
        future = pool.submit(call)
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
