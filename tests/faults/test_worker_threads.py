"""Many threads in one module, and no forks: what a missing lock or a forked child would break."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from keyd.domain.keys import KeySpec, Scheme
from keyd.domain.tokens import TokenState
from tests.fakes import MemoryTokenJournal
from tests.fleets import PATIENCE_S, config_for, make_key, running, sign_one
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied

THREADS = 8
EACH = 60
# Slow enough that the worker uses all of its threads: elliptic curves are signed by one.
RSA = KeySpec(Scheme.RSA_PSS_SHA256, 2048)


def test_threads_in_one_module_lose_no_worker(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """reliability D8 in short: without locking the module crashes within seconds."""
    config = config_for(softhsm, sessions=THREADS)
    with (
        tallied(Promise.TOKENS_RECOVER, "threads in one module at once") as tally,
        running(config, journal=journal) as fleet,
    ):
        token = fleet.get("test")
        keys = [make_key(token, journal, RSA) for _ in range(2)]
        since = token.status().since

        def sign(number: int) -> None:
            for count in range(EACH):
                key = keys[(number + count) % 2]
                sign_one(token, key, f"{number} {count}".encode())
                token.find(key.cka_id, PATIENCE_S)

        with ThreadPoolExecutor(THREADS) as pool:
            calls = [pool.submit(sign, number) for number in range(THREADS)]
        tally.injected(2 * THREADS * EACH)
        assert [error for call in calls if (error := call.exception()) is not None] == []
        status = token.status()
        assert (status.state, status.since) == (TokenState.ONLINE, since), "a worker was lost"


def test_a_worker_is_never_forked(softhsm: SoftHSMToken, journal: MemoryTokenJournal) -> None:
    """A forked child would share the sockets, gRPC's state and even a module's login."""
    forks: list[int] = []
    # Called by os.fork and by what runs Python in a forked child; not by spawning a program.
    os.register_at_fork(before=lambda: forks.append(os.getpid()))
    with running(config_for(softhsm), journal=journal) as fleet:
        token = fleet.get("test")
        sign_one(token, make_key(token, journal))
    assert forks == [], "os.fork was called"
