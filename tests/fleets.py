"""Real tokens under real supervision, for tests of what drives them."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from keyd.backends.config import TokenConfig
from keyd.backends.token import WorkerToken
from keyd.backends.tokens import TokenFleet
from keyd.domain.keys import Key, KeySpec, Scheme
from keyd.domain.public_keys import verify
from keyd.domain.tokens import SignItem, TokenState
from keyd.errors import BackendUnavailable, DeadlineExceeded
from tests.fakes import MemoryTokenJournal
from tests.softhsm import SoftHSMToken

# Generous, for these tests share two cores; nothing here measures time against them.
PATIENCE_S = 20.0
P256 = KeySpec(Scheme.ECDSA_P256)


class WallClock:
    """The host's clocks as they are."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def config_for(token: SoftHSMToken, **changes: object) -> TokenConfig:
    """The token, named by its label, unlocked by its PIN file."""
    config = TokenConfig(
        name=token.label,
        module=token.module,
        uri=token.uri,
        pin_source=f"file:{token.pin_file}",
        environment=token.env,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@contextmanager
def running(
    *configs: TokenConfig, journal: MemoryTokenJournal | None = None, **options: object
) -> Iterator[TokenFleet]:
    """A started fleet, settled; stopped at the end."""
    fleet = TokenFleet(configs, journal or MemoryTokenJournal(), WallClock(), **options)  # type: ignore[arg-type]
    fleet.start()
    try:
        assert fleet.wait_settled(PATIENCE_S)
        yield fleet
    finally:
        fleet.stop(PATIENCE_S)


def worker_pids(of: int | None = None) -> set[int]:
    """The children of a process, by default of this one, that are token workers."""
    tasks = Path(f"/proc/{of or os.getpid()}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in _if_there(task).split()]
    return {pid for pid in children if b"keyd.worker" in _if_there(Path(f"/proc/{pid}/cmdline"))}


def _if_there(path: Path) -> bytes:
    """What a file below /proc holds; nothing if its thread or process has just ended."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def make_key(token: WorkerToken, journal: MemoryTokenJournal, spec: KeySpec = P256) -> Key:
    """Generate and register, as the service does. The name is the CKA_ID in hex."""
    cka_id = secrets.token_bytes(16)
    found = token.generate(spec, cka_id, "test", PATIENCE_S)
    return journal.register(token.name, cka_id.hex(), found)


def item(key: Key, data: bytes = b"message") -> SignItem:
    return SignItem(key.cka_id, key.public_der, key.scheme, data)


def sign_one(token: WorkerToken, key: Key, data: bytes = b"message") -> bytes:
    """One verified signature. Raises what the token answered instead."""
    [outcome] = token.sign([item(key, data)], PATIENCE_S)
    if isinstance(outcome, Exception):
        raise outcome
    verify(key.public_der, key.scheme, data, outcome)
    return outcome


def sign_when_back(token: WorkerToken, key: Key, data: bytes = b"message") -> bytes:
    """One verified signature, asked for again, as clients do, while the token is away."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return sign_one(token, key, data)
        except (BackendUnavailable, DeadlineExceeded):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again every 10 ms until it holds; fail naming `what`."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        pause.wait(0.01)


def wait_for_state(token: WorkerToken, *states: TokenState) -> None:
    """Until the token is in one of `states`."""
    wait_until(lambda: token.status().state in states, f"{token.name} in {states}")
