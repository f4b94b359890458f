"""SIGKILL at any moment while four clients sign: what they received is recorded, nothing twice.

Each client signs for a role of its own and, one time in four, races the others for a version of a
role that all may sign. What a kill interrupts is asked for again, mostly with the same bytes and
sometimes, as by somebody who lost them, with others. `KEYD_TEST_SEED` repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from keyd.domain import canonical
from keyd.ledger.verification.verify import verify_ledger
from keyd_client.errors import BackendUnavailable, DeadlineExceeded, Equivocation
from tests.daemon import TEAMS, Installation
from tests.recording import (
    Recorder,
    check_disk,
    check_entries,
    check_receipts,
    entries_of,
)
from tests.running import Daemon

SHARED_ROLE = "timestamp"
LONGEST_LIFE_S = 0.2
_PATIENCE_S = 60.0


@dataclass
class Signing:
    """One client's work until it is `over`; `calls` have ended, `lost` of them without answer."""

    recorder: Recorder
    team: str
    dice: random.Random
    over: threading.Event
    calls: int = 0
    lost: int = 0
    busy: bool = False
    next_version: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        self.next_version = {self.team: 1, SHARED_ROLE: 2}
        retry: tuple[str, bytes] | None = None
        while not self.over.is_set():
            role, payload = self._choose(retry)
            retry = None
            self.busy = True
            try:
                # The SDK carries patient calls over to the next daemon; the others are lost.
                patience_s = self.dice.choice((30.0, 0.25))
                self.recorder.sign(role, role, payload, timeout_s=patience_s)
            except Equivocation as taken:
                self.next_version[role] = int(taken.details["next_version"])
            except (BackendUnavailable, DeadlineExceeded):
                retry = role, payload
                self.lost += 1
            else:
                self.next_version[role] += 1
            self.busy = False
            self.calls += 1

    def _choose(self, retry: tuple[str, bytes] | None) -> tuple[str, bytes]:
        if retry is not None and self.dice.random() < 0.75:
            return retry
        role = retry[0] if retry else self.dice.choice((*3 * [self.team], SHARED_ROLE))
        kind = SHARED_ROLE if role == SHARED_ROLE else "targets"
        writer, version = self.recorder.writer, self.next_version[role]
        signed = writer.timestamp(version) if kind == SHARED_ROLE else writer.targets(version)
        # Expiries differ, so that no two payloads of a version are the same.
        return role, canonical.encode(
            signed | writer.common(kind, version, self.dice.random() + 0.1)
        )


def kill_rounds(installation: Installation, rounds: int) -> None:
    seed = os.environ.get("KEYD_TEST_SEED") or secrets.token_hex(4)
    print(f"KEYD_TEST_SEED={seed}")  # pytest shows it when the test fails
    dice = random.Random(seed)
    over = threading.Event()
    clients = [
        Signing(installation.recorder(), team, random.Random(f"{seed} {team}"), over)
        for team in TEAMS
    ]
    checked = [0] * len(clients)
    with ThreadPoolExecutor(len(clients)) as pool, ExitStack() as stack:
        stack.callback(over.set)
        running: list[Future[None]] = []
        for number in range(rounds):
            with installation.serve() as daemon:
                daemon.wait_for("daemon_ready")
                running = running or [pool.submit(client.run) for client in clients]
                wait_for_load(daemon, clients)
                check_new_receipts(installation, clients, checked)
                time.sleep(dice.uniform(0, LONGEST_LIFE_S))  # the moment of the kill is what varies
                in_flight = sum(client.busy for client in clients)
                assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
                assert in_flight, f"round {number} interrupted nothing"
        with installation.serve() as daemon:
            daemon.wait_for("daemon_ready")
            wait_for_load(daemon, clients)
            over.set()
            for future in running:
                future.result(_PATIENCE_S)
            check_new_receipts(installation, clients, checked)
            check_everything(installation, clients)
            assert daemon.stop() == 0


def wait_for_load(daemon: Daemon, clients: list[Signing]) -> None:
    """Wait until each client has been answered by this daemon."""
    before = [client.calls - client.lost for client in clients]
    until = time.monotonic() + _PATIENCE_S
    while any(c.calls - c.lost <= b for c, b in zip(clients, before, strict=True)):
        assert time.monotonic() < until, daemon.log.read_text()[-3000:]
        time.sleep(0.005)


def check_new_receipts(
    installation: Installation, clients: list[Signing], checked: list[int]
) -> None:
    """Compare what was received since the last time with what the daemon tells of it."""
    with installation.client() as client:
        for place, signing in enumerate(clients):
            receipts = signing.recorder.receipts[checked[place] :]
            check_receipts(client, receipts)
            checked[place] += len(receipts)


def check_everything(installation: Installation, clients: list[Signing]) -> None:
    receipts = [receipt for signing in clients for receipt in signing.recorder.receipts]
    with installation.client() as client:
        entries = entries_of(client)
    check_entries(entries, receipts)
    payloads: dict[tuple[str, int], bytes] = {}
    for one in receipts:
        assert payloads.setdefault((one.role, one.version), one.payload) == one.payload
    assert check_disk(installation.ledger, installation.anchor) >= len(entries)
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws
    verified = installation.keyd("audit", "verify", "--json")
    assert verified.code == 0, verified.err
    unknown = sum(e["event"] == "intent_closed" for e in entries)
    lost = sum(client.lost for client in clients)
    print(f"{len(receipts)} signatures received, {lost} calls lost, {unknown} intents closed")
    assert unknown, "no kill left an intent open"
    assert lost, "no call was lost"


@pytest.mark.parametrize("part", range(2))
def test_kill_under_load(installation: Installation, part: int) -> None:
    kill_rounds(installation, 10)


@pytest.mark.slow(seconds=120)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(10))
def test_kill_under_load_500_times(installation: Installation, part: int) -> None:
    kill_rounds(installation, 50)
