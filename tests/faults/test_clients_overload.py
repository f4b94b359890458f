"""More calls than the token can serve: the excess is told so at once, and the rest is served.

reliability H4, H5. The token is slow, so that it is the limit and not this machine.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd_client.errors import Exhausted
from tests.daemon import OPAQUE_KEY, Installation
from tests.faults.bystanders import bystanders
from tests.faults.callers import Callers, Ended
from tests.faults.shim import put_shim
from tests.fleets import wait_until
from tests.recording import check_disk
from tests.tally import Promise, tallied

# python-pkcs11 asks for a signature's length first: two calls, each as slow.
DELAY_MS = 25
SESSIONS = 2
CAPACITY_PER_S = SESSIONS * 1000 / (2 * DELAY_MS)
IN_FLIGHT = 16
SLOW_CALLS = 200
OVERLOAD = 5
SETTLED_S = 5.0
OVERLOAD_S = 120.0


@contextmanager
def slow_daemon(installation: Installation, shim_module: Path) -> Iterator[None]:
    installation.configure(calls_in_flight=str(IN_FLIGHT))
    orders = put_shim(installation, shim_module, sign_timeout_s=10.0)
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        orders.always("C_Sign", f"delay {DELAY_MS}")
        yield
        assert daemon.stop() == 0


def test_slow_calls_of_one_identity(installation: Installation, shim_module: Path) -> None:
    """Those beyond its share are refused before they cost anything; nobody else notices."""
    with (
        slow_daemon(installation, shim_module),
        tallied(Promise.NO_STARVATION, "200 slow calls of one identity") as tally,
        bystanders(installation) as others,
    ):
        others.wait_for(5)
        refused, served = _all_at_once(installation)
        tally.injected(SLOW_CALLS)
        others.wait_for(5)
    print(f"{len(served)} served, {len(refused)} refused within {_told(refused)}; {others}")
    assert len(served) >= IN_FLIGHT
    assert len(refused) >= IN_FLIGHT
    assert sorted(refused)[len(refused) // 2] < max(served)
    others.check()


def _all_at_once(installation: Installation) -> tuple[list[float], list[float]]:
    """Seconds until each of many simultaneous calls was refused, or answered with a signature."""
    refused: list[float] = []
    served: list[float] = []
    together = threading.Barrier(SLOW_CALLS)

    def call(number: int) -> None:
        together.wait(60)
        began = time.monotonic()
        try:
            client.sign_opaque(OPAQUE_KEY, b"%d" % number)
            served.append(time.monotonic() - began)
        except Exhausted:
            refused.append(time.monotonic() - began)

    with installation.client() as client, ThreadPoolExecutor(SLOW_CALLS) as pool:
        client.keys.get(OPAQUE_KEY)
        for done in [pool.submit(call, number) for number in range(SLOW_CALLS)]:
            done.result(120)
    return refused, served


@pytest.mark.slow(seconds=150)
def test_five_times_what_the_token_can_do(installation: Installation, shim_module: Path) -> None:
    """The token goes on at its own pace: no time is lost to calls that nobody awaits any more."""
    with (
        slow_daemon(installation, shim_module),
        tallied(Promise.NO_STARVATION, "five times the token's capacity") as tally,
        Callers(installation, "admin", per_s=OVERLOAD * CAPACITY_PER_S / 2) as some,
        Callers(installation, "release", per_s=OVERLOAD * CAPACITY_PER_S / 2) as others,
    ):
        wait_until(lambda: bool(some.ended and others.ended), "calls")
        time.sleep(SETTLED_S)
        began = time.monotonic()
        time.sleep(OVERLOAD_S)
        ended = [one for each in (some, others) for one in list(each.ended) if one.began > began]
        tally.injected(len(ended))
    served = [one for one in ended if one.code == "OK"]
    goodput = len(served) / OVERLOAD_S / CAPACITY_PER_S
    codes = Counter(one.code for one in ended)
    print(f"goodput {goodput:.2f}; served within {_told([o.took_s for o in served])}; {codes}")
    assert codes.keys() <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    # A machine with far too much to do may cost the token a worker, which is replaced.
    assert codes["UNAVAILABLE"] < len(ended) / 20
    assert goodput > 0.3
    for one in (some, others):
        assert _share(served, one.ended) > 0.25
    assert check_disk(installation.ledger, installation.anchor) >= len(served)


def _share(served: Sequence[Ended], of: Sequence[Ended]) -> float:
    return len({id(one) for one in served} & {id(one) for one in of}) / len(served)


def _told(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[int(part * len(ordered))] for part in (0.5, 0.99))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"
