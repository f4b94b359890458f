"""Connections cut after sending, calls cancelled and 1 ms deadlines: nothing doubled, or leaked.

A client that asks again gets the recorded signature; an operator sees calls ended as CANCELLED or
DEADLINE_EXCEEDED, and nothing to do.
"""

from __future__ import annotations

import random
import re
import time
import urllib.request
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from keyd.domain import canonical
from keyd_client import Client
from keyd_client.errors import BackendUnavailable, Equivocation
from keyd_client.profile import Profile
from keyd_protos.v1 import signing_pb2, signing_pb2_grpc
from tests.daemon import REPOSITORY, TEAMS, Installation
from tests.faults.killing import new_seed
from tests.faults.relay import Relay
from tests.recording import Receipt, Recorder, check_disk, check_entries, check_receipts, entries_of
from tests.running import Daemon
from tests.tally import Promise, Tally, tallied

_IN_FLIGHT = re.compile(r'^keyd_rpc_calls_in_flight\{lane="[^"]*"\} (\S+)$', re.MULTILINE)
_QUIET_S = 30.0
# The daemon's thread pools grow to their size, which is no leak.
_MORE_THREADS = 40


def payloads(recorder: Recorder, role: str, version: int) -> tuple[bytes, bytes]:
    """Two for one version."""
    signed = recorder.writer.targets(version)
    other = signed | recorder.writer.common("targets", version, days=0.25)
    return canonical.encode(signed), canonical.encode(other)


def cut_often(
    installation: Installation, team: str, cuts: int, seed: str, tally: Tally
) -> list[Receipt]:
    """Lose the answer to each first version's call; then ask again, for the same and for others."""
    dice = random.Random(f"{seed} {team}")
    direct = installation.recorder()
    path = installation.root / f"relay-{team}"
    profile = Profile(f"unix:{path}", repository=REPOSITORY, timeout_s=30.0)
    with Relay(path, installation.socket("release")) as relay, Client(profile) as client:
        recorder = Recorder(client, REPOSITORY)
        for version in range(2, cuts + 2):
            payload, other = payloads(direct, team, version)
            since = time.monotonic()
            relay.cut_after(payload[-100:], dice.choice([0.0, dice.uniform(0, 0.02)]))
            # The SDK carries the call over by itself, with its request id.
            first = recorder.sign(team, team, payload)
            tally.injected()
            tally.recovered(time.monotonic() - since)
            again = direct.sign(team, team, payload)
            assert again.replayed
            assert again.signature == first.signature
            with pytest.raises(Equivocation):
                direct.sign(team, team, other)
        assert relay.cuts == cuts
    return [*recorder.receipts, *direct.receipts]


def cut_rounds(installation: Installation, cuts: int) -> None:
    seed = new_seed()
    with (
        tallied(Promise.REPEATABLE, "connection cut after sending") as tally,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        with ThreadPoolExecutor(len(TEAMS)) as pool:
            each = [
                pool.submit(cut_often, installation, team, cuts // len(TEAMS), seed, tally)
                for team in TEAMS
            ]
            receipts = [receipt for one in each for receipt in one.result()]
        with installation.client() as client:
            check_receipts(client, receipts)
            entries = entries_of(client)
        check_entries(entries, receipts)
        intents = Counter(
            (entry["role"], entry["version"])
            for entry in entries
            if entry["event"] == "signature_intended" and entry["role"] in TEAMS
        )
        assert set(intents.values()) == {1}, intents.most_common(3)
        assert daemon.stop() == 0
    check_disk(installation.ledger, installation.anchor)


def test_cut_after_sending(installation: Installation) -> None:
    cut_rounds(installation, 48)


@pytest.mark.slow(seconds=30)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_cut_after_sending_1000_times(installation: Installation, part: int) -> None:
    cut_rounds(installation, 252)


def give_up(client: Client, team: str, payload: bytes, dice: random.Random) -> str:
    """Ask and lose patience: a deadline of 1 ms, or a cancellation within 20 ms."""
    metadata = client.to_sign(payload, key=team, repository=REPOSITORY, role=team)
    request = signing_pb2.SignMetadataRequest(metadata=metadata, request_id=uuid.uuid4().hex)
    with client.connection.lease() as opened:
        stub = signing_pb2_grpc.SigningServiceStub(opened.channel)
        hurried = dice.random() < 0.3
        call = stub.SignMetadata.future(request, timeout=0.001 if hurried else 30.0)
        if not hurried:
            time.sleep(dice.uniform(0, 0.02))  # the moment of the cancellation is what varies
            call.cancel()
        try:
            call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            return call.code().name
    return "OK"


def give_up_often(
    installation: Installation, team: str, calls: int, seed: str, tally: Tally
) -> Counter[str]:
    dice = random.Random(f"{seed} {team}")
    recorder = installation.recorder()
    outcomes: Counter[str] = Counter()
    for version in range(2, calls + 2):
        payload, other = payloads(recorder, team, version)
        outcomes[give_up(recorder.client, team, payload, dice)] += 1
        tally.injected()
        # Whatever became of that call, its version is free for these bytes.
        recorder.sign(team, team, payload)
        with pytest.raises(Equivocation):
            recorder.sign(team, team, other)
    return outcomes


def give_up_rounds(installation: Installation, calls: int) -> None:
    seed = new_seed()
    with (
        tallied(Promise.REPEATABLE, "call cancelled or out of time") as tally,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        before = threads_of(daemon)
        with ThreadPoolExecutor(len(TEAMS)) as pool:
            each = [
                pool.submit(give_up_often, installation, team, calls // len(TEAMS), seed, tally)
                for team in TEAMS
            ]
            outcomes = sum((one.result() for one in each), Counter[str]())
        print(dict(outcomes))
        assert outcomes["CANCELLED"]
        assert outcomes["DEADLINE_EXCEEDED"]
        wait_until_quiet(daemon)
        after = threads_of(daemon)
        assert after <= before + _MORE_THREADS, (before, after)
        with installation.client() as client:
            check_entries(entries_of(client))
        assert daemon.stop() == 0
    check_disk(installation.ledger, installation.anchor)


def threads_of(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.running.pid}/task").iterdir()))


def wait_until_quiet(daemon: Daemon) -> None:
    """No call has a thread any more."""
    address = daemon.wait_for("metrics_listening")["address"]
    until = time.monotonic() + _QUIET_S
    while True:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lanes = [float(value) for value in _IN_FLIGHT.findall(answer.read().decode())]
        assert lanes, "the daemon tells no calls in flight"
        if not any(lanes):
            return
        assert time.monotonic() < until, f"calls are left behind: {lanes}"
        time.sleep(0.05)


def test_calls_given_up(installation: Installation) -> None:
    give_up_rounds(installation, 80)


@pytest.mark.slow(seconds=20)
@pytest.mark.timeout(600)
def test_calls_given_up_1000_times(installation: Installation) -> None:
    give_up_rounds(installation, 1000)


def test_a_killed_daemon_ends_the_streams_it_served(installation: Installation) -> None:
    """Long before their deadlines: a watcher that hears nothing believes that all is well."""
    with installation.serve() as daemon, installation.client() as client:
        daemon.wait_for("daemon_ready")
        states = client.tokens.watch(timeout_s=300)
        next(states)
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(next, states)
            daemon.running.kill()
            with pytest.raises(BackendUnavailable):
                heard.result(timeout=60)
