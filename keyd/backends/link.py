"""The worker that serves a token at the moment, and its replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from keyd.backends import refusals
from keyd.backends.calls import unknown_outcome
from keyd.backends.channel import Channel
from keyd.backends.config import TokenConfig, check_module
from keyd.backends.process import WorkerProcess
from keyd.backends.queue import RequestQueue
from keyd.errors import KeydError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Current:
    worker: WorkerProcess
    channel: Channel


class WorkerLink:
    """At most one worker. `lost` is called on the reading thread when a worker's socket closes."""

    def __init__(
        self,
        config: TokenConfig,
        command: Sequence[str],
        queue: RequestQueue,
        lost: Callable[[Channel, str], None],
    ) -> None:
        self._config = config
        self._command = command
        self._queue = queue
        self._tell = lost
        self._current: _Current | None = None
        self._hung: Channel | None = None

    @property
    def up(self) -> bool:
        """Whether there is a worker, as far as is known."""
        return self._current is not None

    def is_current(self, channel: Channel) -> bool:
        current = self._current
        return current is not None and current.channel is channel

    def spawn(self) -> None:
        """Start a worker. Raises: InvalidRequest (the module is unsafe), OSError."""
        config = self._config
        check_module(config)
        worker = WorkerProcess(
            self._command, config.environment, config.development, config.sandbox
        )
        channel = Channel(worker.socket, self._queue.answered, self._lost)
        self._queue.attach(channel)
        self._current = _Current(worker, channel)
        # Not before: the end of a worker that dies at once would be told of a channel that nobody
        # knows, and whoever asks it next would wait in vain.
        channel.start()
        _log.info("token_worker_started", token=config.name, pid=worker.pid, sandbox=config.sandbox)
        if config.sandbox == "off":
            _log.warning("token_sandbox_off", token=config.name, pid=worker.pid)

    def kill(self) -> None:
        """SIGKILL from any thread; the reading thread then reports the loss."""
        current = self._current
        if current is not None:
            current.worker.kill()
            current.channel.close()

    def kill_if_hung(self, now: float) -> None:
        """End a worker that has kept a request beyond its limit, or was stopped by a signal."""
        current = self._current
        if current is not None and (self._queue.overdue(now) or current.worker.stopped()):
            _log.warning("token_worker_hung", token=self._config.name, pid=current.worker.pid)
            self._hung = current.channel
            current.worker.kill()
            current.channel.close()

    def end(self, *, force: bool = True) -> None:
        """End the worker, by SIGKILL or by letting it finish, and fail what it was asked."""
        current, self._current = self._current, None
        if current is None:
            return
        if force:
            current.worker.kill()
        current.channel.close()
        self._queue.detach(current.channel, lambda: self._failure_of(current.channel))
        status = current.worker.reap()
        _log.info(
            "token_worker_ended", token=self._config.name, pid=current.worker.pid, status=status
        )

    def _lost(self, channel: Channel, reason: str) -> None:
        self._queue.detach(channel, lambda: self._failure_of(channel))
        self._tell(channel, reason)

    def _failure_of(self, channel: Channel) -> KeydError:
        if channel is self._hung:
            return unknown_outcome("TOKEN_TIMEOUT")
        return refusals.worker_ended(self._config.name)
