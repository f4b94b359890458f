"""SIGKILL at any moment while four clients sign: what they received is recorded, nothing twice.

`KEYD_TEST_SEED` repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon import TEAMS, Installation
from tests.load import PATIENT_S, Load, Signing, check_new_receipts, check_sound, signing
from tests.running import Daemon

LONGEST_LIFE_S = 0.2


def kill_rounds(installation: Installation, rounds: int) -> None:
    seed = os.environ.get("KEYD_TEST_SEED") or secrets.token_hex(4)
    print(f"KEYD_TEST_SEED={seed}")  # pytest shows it when the test fails
    dice = random.Random(seed)
    patience_s = (PATIENT_S, 0.25)
    clients = [
        Signing(installation.recorder(), team, random.Random(f"{seed} {team}"), patience_s)
        for team in TEAMS
    ]
    with signing(clients) as load:
        for _ in range(rounds):
            with serving(installation) as daemon:
                load.wait_for_answers()
                check_new_receipts(installation, load)
                time.sleep(dice.uniform(0, LONGEST_LIFE_S))  # the moment of the kill is what varies
                load.wait_for_calls()
                assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        with serving(installation) as daemon:
            load.wait_for_answers()
            load.end()
            check_new_receipts(installation, load)
            check_everything(installation, load)
            assert daemon.stop() == 0


@contextmanager
def serving(installation: Installation) -> Iterator[Daemon]:
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        yield daemon


def check_everything(installation: Installation, load: Load) -> None:
    entries = check_sound(installation, load)
    unknown = sum(e["event"] == "intent_closed" for e in entries)
    lost = len(load.lost)
    print(f"{len(load.receipts)} signatures received, {lost} calls lost, {unknown} intents closed")
    assert unknown, "no kill left an intent open: nothing was interrupted"
    assert lost, "every call was carried over: nobody asked for other bytes"


@pytest.mark.parametrize("part", range(2))
def test_kill_under_load(installation: Installation, part: int) -> None:
    kill_rounds(installation, 10)


@pytest.mark.slow(seconds=120)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(10))
def test_kill_under_load_500_times(installation: Installation, part: int) -> None:
    kill_rounds(installation, 50)
