"""All configured tokens: started one after the other, watched by one thread, ended together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from keyd.backends.config import TokenConfig, check_config
from keyd.backends.events import EventBus
from keyd.backends.process import WORKER_COMMAND
from keyd.backends.state import StateBoard
from keyd.backends.supervisor import Supervisor
from keyd.backends.token import WorkerToken
from keyd.domain.tokens import TokenEvent, TokenEventKind
from keyd.errors import InvalidRequest, NotFound
from keyd.ports import Clock, TokenJournal

_WATCH_S = 0.1
_STAGGER_S = 3.0


class _Stagger:
    """One start at a time per module: SoftHSM's races. A token that hangs delays others briefly."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = threading.local()

    def __enter__(self) -> None:
        self._held.yes = self._lock.acquire(timeout=_STAGGER_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._held.yes:
            self._lock.release()


class TokenFleet:
    """Implements `keyd.ports.Tokens`. Nothing runs before `start`."""

    def __init__(
        self,
        configs: Sequence[TokenConfig],
        journal: TokenJournal,
        clock: Clock,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """Check every configuration. Raises: InvalidRequest."""
        self._bus = EventBus()
        self._supervisors: dict[str, Supervisor] = {}
        self._tokens: dict[str, WorkerToken] = {}
        staggers: dict[Path, _Stagger] = {}
        for config in configs:
            if config.name in self._tokens:
                raise InvalidRequest("TOKEN_NAME_TWICE", f"two tokens are named {config.name}")
            uri = check_config(config)
            board = StateBoard(config.name, clock, self._bus)
            stagger = staggers.setdefault(config.module.resolve(), _Stagger())
            supervisor = Supervisor(
                config,
                uri,
                journal=journal,
                board=board,
                starting=stagger,
                command=worker_command,
            )
            self._supervisors[config.name] = supervisor
            self._tokens[config.name] = WorkerToken(config, board, supervisor)
        self._stopping = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="keyd-watchdog", daemon=True)

    def start(self) -> None:
        """Start every token; returns at once. `wait_settled` waits."""
        self._watchdog.start()
        for supervisor in self._supervisors.values():
            supervisor.start()

    def wait_settled(self, timeout_s: float) -> bool:
        """Whether within `timeout_s` every token is ONLINE or known not to be."""
        deadline = time.monotonic() + timeout_s
        return all(
            each.settled.wait(max(deadline - time.monotonic(), 0.0))
            for each in self._supervisors.values()
        )

    def stop(self, timeout_s: float = 5.0) -> None:
        """Serve what is under way, at most `timeout_s`, then end every worker. Again: nothing."""
        if not self._watchdog.is_alive():
            return
        deadline = time.monotonic() + timeout_s
        for supervisor in self._supervisors.values():
            supervisor.drain(deadline)
        enders = [
            threading.Thread(target=supervisor.stop, args=(deadline,))
            for supervisor in self._supervisors.values()
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self._stopping.set()
        self._watchdog.join()

    def get(self, name: str) -> WorkerToken:
        """Raises: NotFound."""
        try:
            return self._tokens[name]
        except KeyError:
            known = ", ".join(self._tokens) or "none"
            raise NotFound("TOKEN_UNKNOWN", f"no token {name!r}; configured: {known}") from None

    def all(self) -> tuple[WorkerToken, ...]:
        """In the order of the configuration."""
        return tuple(self._tokens.values())

    def watch(self, stop: Callable[[], bool]) -> Iterator[TokenEvent]:
        """The present status of every token, then events as they come, until `stop()`."""
        return self._bus.watch(self._present, stop)

    def _present(self) -> list[TokenEvent]:
        statuses = [token.status() for token in self.all()]
        return [TokenEvent(TokenEventKind.STATE_CHANGED, each, each.since) for each in statuses]

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_S):
            now = time.monotonic()
            for supervisor in self._supervisors.values():
                supervisor.watch(now)
