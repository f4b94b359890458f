"""A daemon killed again and again under load, and what must hold of what it left.

`KEYD_TEST_SEED` repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from keyd.failpoints import Failpoint
from keyd_client.errors import KeydClientError
from tests.daemon import TEAMS, TOKEN, Installation
from tests.load import PATIENT_S, Load, Signing, check_new_receipts, check_sound, signing
from tests.running import Daemon
from tests.tally import Promise, Tally, tallied

ANY_MOMENT = ""
LONGEST_LIFE_S = 0.2
_DEATH_S = 60.0
# The passages of a place are many under load, but one each in the making of a key and at a start.
STARTING = (Failpoint.LEDGER_ANCHOR_REWRITTEN,)
MAKING_KEYS = (
    Failpoint.KEY_AFTER_INTENT,
    Failpoint.KEY_AFTER_GENERATE,
    Failpoint.KEY_BEFORE_ANSWER,
)
SIGNING = (
    Failpoint.LEDGER_GROUP_WRITTEN,
    Failpoint.LEDGER_GROUP_COMMITTED,
    Failpoint.LEDGER_GROUP_ANCHORED,
    Failpoint.SIGN_AFTER_RESERVE,
    Failpoint.SIGN_AFTER_TOKEN,
    Failpoint.SIGN_AFTER_VERIFY,
    Failpoint.SIGN_BEFORE_ANSWER,
)


def new_seed() -> str:
    seed = os.environ.get("KEYD_TEST_SEED") or secrets.token_hex(4)
    print(f"KEYD_TEST_SEED={seed}")  # pytest shows it when the test fails
    return seed


def kill_rounds(installation: Installation, places: Sequence[str], seed: str) -> None:
    """Kill the daemon once at each place, a failpoint's name or ANY_MOMENT, and check each time."""
    dice = random.Random(seed)
    patience_s = (PATIENT_S, 0.25)
    clients = [
        Signing(installation.recorder(), team, random.Random(f"{seed} {team}"), patience_s)
        for team in TEAMS
    ]
    fault = "SIGKILL at a failpoint under load" if any(places) else "SIGKILL under load"
    with (
        tallied(Promise.RECORDED, fault) as recorded,
        tallied(Promise.ONE_PAYLOAD, fault) as bound,
        tallied(Promise.REPEATABLE, fault) as repeated,
        signing(clients) as load,
    ):
        for number, place in enumerate(places):
            _die(installation, load, place, dice, number, recorded)
            for tally in (recorded, bound, repeated):
                tally.injected()
        with _serving(installation) as daemon:
            load.wait_for_answers()
            load.end()
            check_new_receipts(installation, load)
            _check_everything(installation, load)
            assert daemon.stop() == 0


def _die(
    installation: Installation,
    load: Load,
    place: str,
    dice: random.Random,
    number: int,
    tally: Tally,
) -> None:
    if place in STARTING:
        _die_at_the_start(installation, place)
        return
    passage = dice.randint(1, 40) if place in SIGNING else 1
    with _serving(installation, f"{place}:{passage}" if place else "") as daemon:
        since = time.monotonic()
        load.wait_for_answers()
        tally.recovered(time.monotonic() - since)
        check_new_receipts(installation, load)
        if place == ANY_MOMENT:
            time.sleep(dice.uniform(0, LONGEST_LIFE_S))  # the moment of the kill is what varies
            load.wait_for_calls()
            assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        elif place in MAKING_KEYS:
            _die_making_a_key(installation, daemon, f"late-{number}")
        else:
            with _armed(installation):
                _check_death(daemon)


def _die_at_the_start(installation: Installation, place: str) -> None:
    with _armed(installation), installation.serve(f"{place}:1") as daemon:
        _check_death(daemon)


def _die_making_a_key(installation: Installation, daemon: Daemon, name: str) -> None:
    def make() -> None:
        with installation.client(timeout_s=5.0) as client, suppress(KeydClientError):
            client.keys.create(name, TOKEN, content="opaque", request_id=name)

    with _armed(installation), ThreadPoolExecutor(1) as pool:
        made = pool.submit(make)
        _check_death(daemon)
        made.result()


def _check_death(daemon: Daemon) -> None:
    """A daemon that survives fails the test: nothing would have been injected."""
    code = daemon.running.wait(_DEATH_S)
    assert code == -signal.SIGKILL, daemon.log.read_text()[-3000:]


@contextmanager
def _armed(installation: Installation) -> Iterator[None]:
    installation.arm()
    try:
        yield
    finally:
        installation.disarm()


@contextmanager
def _serving(installation: Installation, failpoint: str = "") -> Iterator[Daemon]:
    with installation.serve(failpoint) as daemon:
        daemon.wait_for("daemon_ready")
        yield daemon


def _check_everything(installation: Installation, load: Load) -> None:
    entries = check_sound(installation, load)
    unknown = sum(e["event"] == "intent_closed" for e in entries)
    lost = len(load.lost)
    print(f"{len(load.receipts)} signatures received, {lost} calls lost, {unknown} intents closed")
    assert unknown, "no kill left an intent open: nothing was interrupted"
    assert lost, "every call was carried over: nobody asked for other bytes"
