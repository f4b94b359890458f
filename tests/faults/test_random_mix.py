"""Everything at once: four clients sign while keys are made, policies replaced, processes killed.

`KEYD_TEST_SEED` repeats a run's choices, KEYD_TEST_SECONDS its length.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from keyd_client.errors import BackendUnavailable, DeadlineExceeded
from keyd_client.messages import Key
from tests.daemon import TEAMS, TOKEN, Installation
from tests.load import PATIENT_S, Load, Signing, check_new_receipts, check_sound, signing
from tests.running import Daemon
from tests.tally import Promise, tallied

SECONDS = 300
QUICK_STEPS = 4
LONGEST_PAUSE_S = 0.1


@dataclass
class Mix:
    """The daemon under test and what is done to it; every step ends with all clients answered."""

    installation: Installation
    load: Load
    dice: random.Random
    daemon: Daemon
    done: Counter[str] = field(default_factory=Counter)
    made: dict[str, Key] = field(default_factory=dict)
    _deck: list[Callable[[], None]] = field(default_factory=list)

    def choose(self, *, shuffled: bool) -> Callable[[], None]:
        """The next action; each has its turn before any has another."""
        if not self._deck:
            self._deck = self.actions()
            if shuffled:
                self.dice.shuffle(self._deck)
        return self._deck.pop(0)

    def step(self, action: Callable[[], None]) -> float:
        """Do something, wait until all is well again; returns how long that took."""
        self.load.wait_for_calls()
        began = time.monotonic()
        action()
        acted = time.monotonic() - began
        self.load.wait_for_answers()
        took = time.monotonic() - began
        print(f"{sum(self.done.values())}: {action.__name__} {acted:.2f} s, well after {took:.2f}")
        check_new_receipts(self.installation, self.load)
        self.done[action.__name__] += 1
        return took

    def actions(self) -> list[Callable[[], None]]:
        """What can be done, in the order in which a short run does it."""
        return [
            self.kill_daemon_that_makes_a_key,
            self.kill_worker,
            self.break_policy,
            self.make_a_key,
            self.reload,
            self.kill_daemon,
            self.stop_worker,
            self.stop_daemon,
            self.kill_worker_that_makes_a_key,
        ]

    def kill_daemon(self) -> None:
        assert self.daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        self._start()

    def stop_daemon(self) -> None:
        assert self.daemon.stop() == 0
        self._start()

    def kill_worker(self) -> None:
        self._end_worker(signal.SIGKILL)

    def stop_worker(self) -> None:
        self._end_worker(signal.SIGSTOP)

    def reload(self) -> None:
        self._reload("reloaded")

    def break_policy(self) -> None:
        policy = self.installation.policy.read_text()
        self.installation.policy.write_text("[[grant]]\n")
        try:
            self._reload("reload_refused")
        finally:
            self.installation.policy.write_text(policy)

    def make_a_key(self) -> None:
        self._make(lambda: None)

    def kill_daemon_that_makes_a_key(self) -> None:
        self._make(self.kill_daemon)

    def kill_worker_that_makes_a_key(self) -> None:
        self._make(self.kill_worker)

    def _make(self, meanwhile: Callable[[], None]) -> None:
        """One key, however often it must be asked for under the same request id."""
        name = f"made-{len(self.made)}"
        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(self._create, name)
            time.sleep(self.dice.uniform(0, LONGEST_PAUSE_S))  # the moment is what varies
            meanwhile()
            self.made[name] = making.result()

    def _create(self, name: str) -> Key:
        with self.installation.client() as admin:
            while True:
                try:
                    return admin.keys.create(name, TOKEN, request_id=f"make-{name}", timeout_s=5.0)
                except (BackendUnavailable, DeadlineExceeded) as lost:
                    print(f"  {name}: {lost.reason}")

    def _start(self) -> None:
        self.daemon = self.installation.serve().__enter__()
        self.daemon.wait_for("daemon_ready")

    def _count(self, event: str) -> int:
        return sum(one["event"] == event for one in self.daemon.events())

    def _reload(self, outcome: str) -> None:
        before = self._count(outcome)
        self.daemon.send(signal.SIGHUP)
        self.daemon.wait_for(outcome, before + 1)

    def _end_worker(self, number: signal.Signals) -> None:
        started, logged_in = self._count("token_worker_started"), self._count("token_logged_in")
        os.kill(self.daemon.wait_for("token_worker_started", started)["pid"], number)
        self.daemon.wait_for("token_logged_in", logged_in + 1)


def run(installation: Installation, enough: Callable[[Mix], bool], *, shuffled: bool) -> Mix:
    """Do things until it is enough, then compare everything with everything."""
    seed = os.environ.get("KEYD_TEST_SEED") or secrets.token_hex(4)
    print(f"KEYD_TEST_SEED={seed}")  # pytest shows it when the test fails
    clients = [
        Signing(installation.recorder(), team, random.Random(f"{seed} {team}"), (PATIENT_S, 0.25))
        for team in TEAMS
    ]
    with (
        tallied(Promise.ONE_PAYLOAD, "random mix of kills, hangs, reloads and new keys") as tally,
        installation.serve() as first,
    ):
        first.wait_for("daemon_ready")
        with signing(clients) as load:
            mix = Mix(installation, load, random.Random(seed), first)
            try:
                while not enough(mix):
                    took = mix.step(mix.choose(shuffled=shuffled))
                    tally.injected()
                    tally.recovered(took)
                load.end()
                check_end(mix)
                assert mix.daemon.stop() == 0
            finally:
                load.over.set()
                mix.daemon.__exit__(None, None, None)
    return mix


def check_end(mix: Mix) -> None:
    """What was received is recorded, and every key was made once."""
    entries = check_sound(mix.installation, mix.load)
    created = Counter(one["key"] for one in entries if one["event"] == "key_created")
    with mix.installation.client() as admin:
        for name, key in mix.made.items():
            assert created[name] == 1
            assert admin.keys.get(name).key_sha256 == key.key_sha256
    print(f"{dict(mix.done)}: {len(mix.load.receipts)} signatures, {len(mix.load.lost)} lost")


def test_a_few_of_each(installation: Installation) -> None:
    run(installation, lambda mix: sum(mix.done.values()) >= QUICK_STEPS, shuffled=False)


@pytest.mark.slow(seconds=SECONDS + 60)
@pytest.mark.timeout(600)
def test_everything_at_once(installation: Installation) -> None:
    until = time.monotonic() + float(os.environ.get("KEYD_TEST_SECONDS") or SECONDS)
    mix = run(installation, lambda _: time.monotonic() > until, shuffled=True)
    assert len(mix.done) == len(mix.actions()), "some action never had its turn"
