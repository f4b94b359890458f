"""What must not disturb clients at work: reloads, the end of a worker, a stop in good order."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.daemon import REPOSITORY, TEAMS, Installation
from tests.load import Load, Signing, signing
from tests.recording import Recorder, check_entries, check_receipts, entries_of
from tests.running import Daemon
from tests.tally import Promise, tallied
from tests.tls_sites import Process, TlsSite

KILLS = 3


def clients_of(installation: Installation) -> list[Signing]:
    return [
        Signing(installation.recorder(), team, random.Random(place))
        for place, team in enumerate(TEAMS)
    ]


def check_all(installation: Installation, load: Load) -> None:
    with installation.client() as client:
        check_receipts(client, load.receipts)
        check_entries(entries_of(client), load.receipts)


@pytest.mark.parametrize(
    "reloads",
    [20, pytest.param(500, marks=[pytest.mark.slow(seconds=90), pytest.mark.timeout(400)])],
)
def test_reloads_cost_no_call(installation: Installation, tmp_path: Path, reloads: int) -> None:
    """Certificates renewed and policies replaced, every fifth one broken; one client uses TLS."""
    site = TlsSite(installation, tmp_path)
    site.configure()
    policy = installation.policy.read_text()
    clients = clients_of(installation)
    with (
        tallied(Promise.NO_STARVATION, "certificate and policy reloads under load") as tally,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        door, process = site.door(daemon), Process(daemon.running.pid)
        clients[3].recorder = Recorder(door.client(), REPOSITORY)
        with signing(clients) as load:
            for number in range(reloads):
                load.wait_for_answers()
                if number == reloads // 5:
                    before = process.memory_mib, process.descriptors
                site.renew()
                broken = number % 5 == 4
                installation.policy.write_text("[[grant]]\n" if broken else f"{policy}# {number}\n")
                reload(daemon, "reload_refused" if broken else "reloaded")
                tally.injected()
            load.wait_for_answers()
            load.end()
        grown = process.memory_mib - before[0], process.descriptors - before[1]
        assert load.lost == []
        check_all(installation, load)
        # A new connection meets the newest certificate, hence still the authority's.
        with door.client() as client:
            assert client.keys.get("team-d").name == "team-d"
        print(
            f"{len(load.receipts)} signatures over {reloads} reloads; "
            f"{grown[0]:+.1f} MiB, {grown[1]:+d} descriptors"
        )
        # Records, caches and gRPC's own buffers grow a little with the signatures, not the reloads.
        assert grown[0] < 40
        assert grown[1] < 12
        assert daemon.stop() == 0


def reload(daemon: Daemon, outcome: str) -> None:
    before = sum(event["event"] == outcome for event in daemon.events())
    daemon.send(signal.SIGHUP)
    daemon.wait_for(outcome, before + 1)


def test_a_worker_killed_while_signing_is_replaced(installation: Installation) -> None:
    """No call is lost, the daemon stays, and each new worker logs in once."""
    with (
        tallied(Promise.TOKENS_RECOVER, "worker killed under load") as tally,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        with signing(clients_of(installation)) as load:
            for number in range(KILLS):
                load.wait_for_answers()
                worker = daemon.wait_for("token_worker_started", number + 1)["pid"]
                load.wait_for_calls()
                began = time.monotonic()
                os.kill(worker, signal.SIGKILL)
                tally.injected()
                daemon.wait_for("token_logged_in", number + 2)
                load.wait_for_answers()
                tally.recovered(time.monotonic() - began)
            load.end()
        assert load.lost == []
        check_all(installation, load)
        events = [event["event"] for event in daemon.events()]
        assert events.count("token_worker_started") == KILLS + 1
        assert events.count("token_logged_in") == KILLS + 1
        print(f"all clients were answered again after {tally.recovery_s} s")
        assert daemon.stop() == 0


def test_a_stop_under_load_loses_and_leaves_nothing(installation: Installation) -> None:
    """SIGTERM: calls in flight end, new ones wait for the next daemon; no intent stays open."""
    with (
        tallied(Promise.REPEATABLE, "daemon stopped under load") as tally,
        ExitStack() as stack,
    ):
        load: Load | None = None
        for _ in range(KILLS):
            with starting(installation) as daemon:
                load = load or stack.enter_context(signing(clients_of(installation)))
                load.wait_for_answers()
                load.wait_for_calls()
                tally.injected()
                assert daemon.stop() == 0
                assert "calls_cut" not in [event["event"] for event in daemon.events()]
        assert load is not None
        with starting(installation) as daemon:
            load.wait_for_answers()
            load.end()
            assert load.lost == []
            check_all(installation, load)
            assert daemon.stop() == 0


@contextmanager
def starting(installation: Installation) -> Iterator[Daemon]:
    """A daemon that serves, and found no intent that its predecessor left open."""
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        assert daemon.wait_for("ledger_open")["intents_closed"] == 0
        yield daemon
