"""kill -9 at every passage of every place of a rotation: it goes on, and nothing is done twice.

One installation goes through rotation after rotation. Each is killed one passage later than the one
before it, and continued after the restart, until one comes through: no passage is left out.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from keyd.ledger.verification.verify import verify_ledger
from keyd_client import Client
from keyd_client.errors import BackendUnavailable, KeydClientError
from keyd_client.messages import NewKey, RoleChange, Rotation, RotationChange, RotationKind, label
from tests.daemon import REPOSITORY, TOKEN, Installation
from tests.recording import entries_of
from tests.running import Daemon
from tests.tally import Promise, Tally, tallied

PLACES = (
    "rotation.started",
    "rotation.reserved",
    "rotation.signed",
    "rotation.step_done",
    "rotation.rehearsed",
    "rotation.published",
    "key.after_intent",
    "key.after_generate",
    "sign.after_reserve",
    "sign.after_token",
    "ledger.group_written",
    "ledger.group_committed",
)
# Which of them stand for the others in `make test`.
SAMPLE = ("rotation.step_done", "sign.after_token")
_DEATH_S = 5.0
_LONGEST_S = 60.0


@dataclass(frozen=True)
class Kind:
    """Rotations of one kind, one after another: the key of `roles` that was, and the next one.

    `bins`: the role is the prefix of hash bins, which are published first.
    """

    kind: str
    roles: tuple[str, ...]
    first: str
    bins: bool = False

    def change(self, number: int) -> RotationChange:
        """The change that brings in key `number`; keys made by the kind are numbered from 1."""
        change = RotationChange(
            kind=RotationKind.Value(f"ROTATION_KIND_{self.kind}"), repository=REPOSITORY
        )
        for role in self.roles:
            new = NewKey(name=f"new-{self.kind.lower()}-{number}", token=TOKEN)
            remove = [self.before(number)] if role == "root" else ["*"]
            change.roles.append(RoleChange(role=role, add=[new], remove=remove))
        if self.kind == "EMERGENCY":
            change.compromised.append(self.before(number))
        if self.kind == "FAST_FORWARD":
            change.lower["timestamp"] = 1
        if self.kind == "RENEW_ROOT":
            del change.roles[:]
        return change

    def before(self, number: int) -> str:
        return self.first if number == 1 else f"new-{self.kind.lower()}-{number - 1}"


KINDS: Mapping[str, Kind] = {
    kind.kind: kind
    for kind in (
        Kind("TIMESTAMP", ("timestamp",), "timestamp"),
        Kind("SNAPSHOT", ("snapshot",), "snapshot"),
        Kind("SHARED_ONLINE", ("snapshot", "timestamp"), "snapshot"),
        Kind("TARGETS", ("targets",), "targets"),
        Kind("DELEGATED", ("team-a",), "team-a"),
        Kind("ROOT", ("root",), "root-1"),
        Kind("EMERGENCY", ("team-b",), "team-b"),
        Kind("FAST_FORWARD", ("timestamp",), "timestamp"),
        Kind("RENEW_ROOT", (), ""),
    )
}

BINS = Kind("DELEGATED", ("hash",), "team-c", bins=True)
STOLEN_BINS = Kind("EMERGENCY", ("hash", "team-c"), "team-c", bins=True)
HASH_BINS = tuple(f"hash-{number}" for number in range(4))


@pytest.mark.parametrize("place", SAMPLE)
def test_a_sample(installation: Installation, place: str) -> None:
    kill_at_every_passage(installation, KINDS["TIMESTAMP"], place)


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *((BINS, place) for place in ("rotation.reserved", "rotation.signed")),
        *((STOLEN_BINS, place) for place in ("rotation.started", "sign.after_token")),
    ],
)
def test_places_among_bins(installation: Installation, kind: Kind, place: str) -> None:
    kill_at_every_passage(installation, kind, place)


@pytest.mark.parametrize(
    "place",
    [
        # Dozens of groups are written for one rotation, and each is a passage.
        pytest.param(place, marks=pytest.mark.slow(seconds=240 if "group" in place else 45))
        for place in PLACES
    ],
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(500)
def test_every_place_of_every_kind(installation: Installation, kind: str, place: str) -> None:
    makes_keys = kind != "RENEW_ROOT"
    if place.startswith("key.") and not makes_keys:
        pytest.skip("no key is made")
    kill_at_every_passage(installation, KINDS[kind], place)


def kill_at_every_passage(installation: Installation, kind: Kind, place: str) -> None:
    words = kind.kind.lower().replace("_", " ") + (" of bins" if kind.bins else "")
    if kind.bins:
        publish_bins(installation)
    with tallied(Promise.ONE_PAYLOAD, f"SIGKILL in a rotation: {words}") as tally:
        passages = kill_until_one_comes_through(installation, kind, place, tally)
        check_afterwards(installation, kind, passages)


def publish_bins(installation: Installation) -> None:
    """The team `team-d` delegates hash bins to the key of `team-c`."""
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        release = installation.recorder()
        writer = release.writer
        succinct = {**writer.listing(1, "team-c"), "bit_length": 2, "name_prefix": "hash"}
        delegations = {"keys": writer.key_objects("team-c"), "succinct_roles": succinct}
        release.sign("team-d", "team-d", writer.targets(1, delegations=delegations))
        for role in HASH_BINS:
            release.sign("team-c", role, writer.targets(1))
        versions = dict.fromkeys(("team-d", *HASH_BINS), 1)
        release.sign("snapshot", "snapshot", writer.snapshot(2, **versions))
        release.sign("timestamp", "timestamp", writer.timestamp(2, 2))
        assert daemon.stop() == 0


def kill_until_one_comes_through(
    installation: Installation, kind: Kind, place: str, tally: Tally
) -> int:
    """How many rotations it took; a recovery lasts from a death to the end of its rotation."""
    died = 0.0
    for passage in itertools.count(1):
        with installation.serve(f"{place}:{passage}") as daemon:
            daemon.wait_for("daemon_ready")
            with installation.client() as client:
                finish(client, kind, passage - 1)
                if died:
                    tally.recovered(time.monotonic() - died)
                if comes_through(installation, daemon, partial(carry_out, client, kind, passage)):
                    break
            died = time.monotonic()
            tally.injected()
    assert passage > 1, f"no rotation of this kind comes by {place}"
    return passage


def comes_through(installation: Installation, daemon: Daemon, call: Callable[[], None]) -> bool:
    """Whether the daemon survived the call. Raises: what the call did if it survived."""
    with ThreadPoolExecutor(1) as pool:
        installation.arm()
        future = pool.submit(call)
        try:
            while not future.done() and daemon.running.poll() is None:
                time.sleep(0.02)
            if isinstance(future.exception() if future.done() else None, BackendUnavailable):
                # A caller hears of a death before its parent does.
                with suppress(subprocess.TimeoutExpired):
                    daemon.running.wait(_DEATH_S)
        finally:
            installation.disarm()
        if daemon.running.poll() is None:
            future.result()
            return True
        assert daemon.running.wait(_LONGEST_S) == -signal.SIGKILL, daemon.log.read_text()[-3000:]
        with_error = future.exception()
        assert with_error is None or isinstance(with_error, KeydClientError), with_error
        return False


def carry_out(client: Client, kind: Kind, number: int) -> None:
    """Begin rotation `number` and take it to its publication."""
    change = kind.change(number)
    plan = client.rotations.plan(change).plan
    assert not [f for f in plan.findings if f.refuses], plan.findings
    client.rotations.start(change, plan.digest)
    finish(client, kind, number)


def finish(client: Client, kind: Kind, number: int) -> None:
    """Go on with rotation `number`, wherever it was left; start it if it never was."""
    if number == 0:
        return
    rotations = list(client.rotations.list(REPOSITORY))
    if len(rotations) < number:
        carry_out(client, kind, number)
        return
    for open_one in open_of(client):
        if label(open_one, "state") != "READY":
            went = client.rotations.go_on(open_one.name, timeout_s=_LONGEST_S).rotation
            assert label(went, "state") == "READY", went
        client.rotations.confirm_published(open_one.name)


def open_of(client: Client) -> Iterator[Rotation]:
    for rotation in client.rotations.list(REPOSITORY):
        if label(rotation, "state") in {"RUNNING", "WAITING", "READY"}:
            yield rotation


def check_afterwards(installation: Installation, kind: Kind, count: int) -> None:
    """No version twice, no key lost, the ledger as the log tells it."""
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with installation.client() as client:
            finish(client, kind, count)
            rotations = list(client.rotations.list(REPOSITORY))
            assert {label(found, "state") for found in rotations} == {"RETIRING"}
            assert len(rotations) == count
            check_versions(client)
            check_keys(client, kind, count)
            report = verify_ledger(installation.ledger, anchor=installation.anchor)
            assert report.sound, report.flaws
    verified = installation.keyd("ledger", "verify", "--config", installation.config)
    assert verified.code == 0, verified.err


def check_versions(client: Client) -> None:
    payloads: dict[object, set[object]] = {}
    reserved: Counter[object] = Counter()
    for entry in entries_of(client):
        if "payload_sha256" not in entry or "version" not in entry:
            continue
        place = (entry["role"], entry["epoch"], entry["version"])
        payloads.setdefault(place, set()).add(entry["payload_sha256"])
        if entry["event"] == "version_reserved":
            reserved[(entry["rotation"], entry["step"])] += 1
    assert {len(found) for found in payloads.values()} == {1}
    assert set(reserved.values()) == {1}, "a step was bound twice"


def check_keys(client: Client, kind: Kind, count: int) -> None:
    """Every key that a rotation made is registered and in the state that it should have."""
    states = {key.name: label(key, "state") for key in client.keys.list()}
    if kind.roles:
        assert states[f"new-{kind.kind.lower()}-{count}"] == "ACTIVE"
        made = {f"new-{kind.kind.lower()}-{number}" for number in range(1, count + 1)}
        assert made <= set(states)
    if kind.kind == "EMERGENCY":
        assert {states[kind.before(number)] for number in range(1, count + 1)} == {"COMPROMISED"}
