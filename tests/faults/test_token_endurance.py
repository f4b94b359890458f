"""Tokens over a long time: sessions, replaced workers, many threads, hangs everywhere.

reliability D3, D4, D8, I4.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyd.backends.token import WorkerToken
from keyd.domain.keys import Key, KeySpec, Scheme
from keyd.domain.tokens import TokenState
from keyd.errors import DeadlineExceeded, KeydError
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import CODES, Shim
from tests.fleets import (
    P256,
    PATIENCE_S,
    config_for,
    item,
    make_key,
    running,
    sign_one,
    sign_when_back,
    wait_for_state,
    wait_until,
    worker_pids,
)
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied

LIMIT = 16


@pytest.mark.parametrize(
    "operations", [400, pytest.param(10_000, marks=pytest.mark.slow(seconds=120))]
)
@pytest.mark.timeout(480)
def test_sessions_are_neither_used_up_nor_leaked(
    operations: int, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """reliability D4: a token with 16 sessions, and errors that poison one now and then."""
    seed = os.environ.get("KEYD_TEST_SEED") or secrets.token_hex(4)
    print(f"KEYD_TEST_SEED={seed}")
    dice = random.Random(seed)
    shim.limit_sessions(LIMIT)
    with (
        tallied(Promise.TOKENS_RECOVER, "errors on a token of 16 sessions") as tally,
        running(shim.config(), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        keys = [make_key(token, journal) for _ in range(3)]
        mixed = _Mixed(token, keys, dice)
        for number in range(operations):
            if number % 20 == 0:
                code, when = dice.choice(list(CODES.values())), dice.choice(("early", "late"))
                shim.once(dice.choice(("C_Sign", "C_SignInit")), f"rv {code:x} {when}")
                tally.injected()
            mixed.do(number)
        shim.behave()
        sign_when_back(token, keys[0])
    assert shim.calls("CKR_SESSION_COUNT") == 0


class _Mixed:
    """One operation after the other, mostly signatures."""

    def __init__(self, token: WorkerToken, keys: list[Key], dice: random.Random) -> None:
        self._token = token
        self._keys = keys
        self._dice = dice

    def do(self, number: int) -> None:
        key = self._dice.choice(self._keys)
        if number % 200 == 199:
            self._token.generate(P256, secrets.token_bytes(16), "t", PATIENCE_S)
        elif number % 50 == 49:
            self._token.inventory(PATIENCE_S)
        elif number % 10 == 9:
            self._token.find(key.cka_id, PATIENCE_S)
        else:
            sign_when_back(self._token, key)


@pytest.mark.slow(seconds=90)
@pytest.mark.timeout(300)
def test_a_hang_in_any_call_costs_its_caller_alone(
    new_shim: Callable[[str], Shim], journal: MemoryTokenJournal
) -> None:
    """reliability D3: the caller's deadline is kept, the worker replaced, the neighbour spared."""
    ill, well = new_shim("ill"), new_shim("well")
    limits = {"sign_timeout_s": 1.0, "generate_timeout_s": 1.5, "open_timeout_s": 4.0}
    with (
        tallied(Promise.TOKENS_RECOVER, "a PKCS#11 call hangs") as tally,
        running(ill.config(**limits), well.config(), journal=journal) as fleet,
    ):
        sick, sound = fleet.get("ill"), fleet.get("well")
        key, neighbour = make_key(sick, journal), make_key(sound, journal)
        asked: dict[str, Callable[[], object]] = {
            "C_SignInit": lambda: _sign(sick, key, 0.5),
            "C_Sign": lambda: _sign(sick, key, 0.5),
            "C_FindObjectsInit": lambda: sick.inventory(0.5),
            "C_FindObjects": lambda: sick.inventory(0.5),
            "C_GetAttributeValue": lambda: sick.inventory(0.5),
            "C_OpenSession": lambda: sick.generate(P256, secrets.token_bytes(16), "t", 0.5),
            "C_GenerateKeyPair": lambda: sick.generate(P256, secrets.token_bytes(16), "t", 0.5),
            "C_CloseSession": lambda: sick.generate(P256, secrets.token_bytes(16), "t", 0.5),
        }
        for function, ask in asked.items():
            sign_when_back(sick, key)
            [pid] = worker_pids() - _workers_of(well)
            ill.once(function, "hang")
            hung = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                ask()
            late_s = time.monotonic() - hung - 0.5
            assert late_s < 1.0, function
            assert ill.obeyed(function), function
            tally.injected()
            sign_one(sound, neighbour)
            wait_until(lambda gone=pid: not Path(f"/proc/{gone}").exists(), "the end of it")  # type: ignore[misc]
            sign_when_back(sick, key)
            well_s = time.monotonic() - hung
            tally.recovered(well_s)
            print(f"{function}: {late_s:.3f} s beyond the deadline, well after {well_s:.2f} s")
        assert well.calls("C_Login") == 1
        assert ill.calls("C_Login") <= ill.calls("C_Initialize")


def _sign(token: WorkerToken, key: Key, timeout_s: float) -> None:
    [outcome] = token.sign([item(key)], timeout_s)
    if isinstance(outcome, Exception):
        raise outcome


def _workers_of(shim: Shim) -> set[int]:
    """The workers that obey this shim's directory."""
    mark = str(shim.directory).encode()
    return {
        pid for pid in worker_pids() if mark in (Path("/proc") / str(pid) / "environ").read_bytes()
    }


def test_a_logout_by_others_is_mended(shim: Shim, journal: MemoryTokenJournal) -> None:
    """The login belongs to all sessions of the process: a module may lose it at any moment."""
    with (
        tallied(Promise.TOKENS_RECOVER, "logged out by another session") as tally,
        running(shim.config(), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        for times in range(1, 4):
            shim.once("C_SignInit", "logout")
            sign_when_back(token, key)
            lost = time.monotonic()
            assert shim.obeyed("C_SignInit")
            tally.injected()
            sign_when_back(token, key)
            wait_for_state(token, TokenState.ONLINE)
            tally.recovered(time.monotonic() - lost)
            assert shim.calls("C_Login") == 1 + times
    assert [attempt is None for attempt in journal.attempts] == [False, True] * 4


@pytest.mark.slow(seconds=300)
@pytest.mark.timeout(480)
@pytest.mark.usefixtures("hasty")
def test_two_hundred_workers_leave_nothing_behind(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """reliability I4: no zombie, no descriptor, no thread too many."""
    with (
        tallied(Promise.TOKENS_RECOVER, "SIGKILL of a worker, 200 times") as tally,
        running(config_for(softhsm), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        before = None
        for number in range(200):
            [pid] = worker_pids()
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            tally.injected()
            wait_until(lambda gone=pid: worker_pids() - {gone} != set(), "another worker")  # type: ignore[misc]
            sign_when_back(token, key)
            tally.recovered(time.monotonic() - killed)
            wait_until(lambda: len(worker_pids()) == 1, "the dead to be collected")
            if number == 9:
                before = _held()
        assert before is not None
        after = _held()
        print(f"descriptors and threads after 10: {before}, after 200: {after}")
        assert after[0] <= before[0] + 2
        assert after[1] <= before[1] + 1


def _held() -> tuple[int, int]:
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.slow(seconds=200)
@pytest.mark.timeout(480)
def test_sixteen_threads_for_minutes(softhsm: SoftHSMToken, journal: MemoryTokenJournal) -> None:
    """reliability D8: through keyd's queue and two session threads, every signature verified."""
    with (
        tallied(Promise.TOKENS_RECOVER, "16 threads without a pause") as tally,
        running(config_for(softhsm), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        specs = (P256, KeySpec(Scheme.ED25519), KeySpec(Scheme.ECDSA_P384))
        keys = [make_key(token, journal, spec) for spec in specs]
        until = time.monotonic() + 180

        def work(number: int) -> Counter[str]:
            counts: Counter[str] = Counter()
            while time.monotonic() < until:
                try:
                    sign_one(token, keys[counts["signed"] % 3], secrets.token_bytes(16))
                except KeydError as error:
                    counts[error.reason] += 1
                else:
                    counts["signed"] += 1
            return counts

        with ThreadPoolExecutor(16) as pool:
            counts = sum(pool.map(work, range(16)), Counter())
        tally.injected(counts["signed"])
        print(dict(counts))
        assert set(counts) == {"signed"}
