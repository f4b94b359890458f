"""A running daemon whose wall clock is moved under it: nothing outside its window, and no hang.

wall_clock.c moves the clock of the daemon alone; the test and its clients keep the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from keyd.backends.config import TokenConfig
from keyd.domain import canonical
from keyd_protos.v1 import signing_pb2, signing_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from tests.daemon import REPOSITORY, Installation
from tests.recording import check_disk, check_entries, entries_of
from tests.running import Daemon
from tests.serving import Refusal

SOURCE = Path(__file__).with_name("wall_clock.c")
DAY_S = 86_400
TIMEOUT_S = 5.0
WATCH_S = 3.0
# The default of sign_timeout_s.
TOKEN_TIMEOUT_S = TokenConfig.sign_timeout_s
# What a refusal may take, on a busy machine; nothing waits for anything.
PROMPT_S = 3.0
# The longest two lead beyond 32-bit counts of seconds; beyond 2262 no Linux clock can be.
JUMPS = (900 * DAY_S, -900 * DAY_S, 3600, -3600, 361, -361, 80_000 * DAY_S, -40_000 * DAY_S)


@dataclass
class Moved:
    """An installation whose daemon's wall clock is so many seconds ahead."""

    installation: Installation
    library: Path
    file: Path

    def move(self, offset_s: int) -> None:
        with self.file.open("r+b") as file:
            file.write(struct.pack("=q", offset_s))

    def serve(self, offset_s: int = 0) -> Daemon:
        self.file.write_bytes(struct.pack("=q", offset_s))
        preload = f"LD_PRELOAD={self.library}", f"KEYD_CLOCK_FILE={self.file}"
        return self.installation.serve(launcher=("env", *preload))


@pytest.fixture(scope="session")
def wall_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to move the daemon's clock")
    library = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    flags = ["-Wall", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
    return library


@pytest.fixture
def moved(installation: Installation, wall_clock: Path, socket_dir: Path) -> Moved:
    return Moved(installation, wall_clock, socket_dir / "offset")


@pytest.fixture
def channel(moved: Moved) -> Iterator[grpc.Channel]:
    """Without the SDK, whose patience would hide how fast an answer comes."""
    options = [("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"unix:{moved.installation.socket()}", options) as channel:
        yield channel


def request(version: int, expires: str) -> signing_pb2.SignMetadataRequest:
    """A timestamp to be signed; two of one version and expiry are the same bytes."""
    signed = {
        "_type": "timestamp",
        "spec_version": "1.0.31",
        "version": version,
        "expires": expires,
        "meta": {"snapshot.json": {"version": 1}},
    }
    item = signing_pb2.MetadataToSign(
        key="timestamp",
        repository=REPOSITORY,
        role="timestamp",
        payload=canonical.encode(signed),
    )
    return signing_pb2.SignMetadataRequest(metadata=item)


def outcome_of(
    channel: grpc.Channel, asked: signing_pb2.SignMetadataRequest, timeout_s: float = TIMEOUT_S
) -> str:
    """Whether it was "signed", else the reason of the refusal or gRPC's own code."""
    try:
        signing_pb2_grpc.SigningServiceStub(channel).SignMetadata(asked, timeout=timeout_s)
    except grpc.RpcError as error:
        refusal = Refusal()
        refusal.read(error)
        return refusal.reason or refusal.code
    return "signed"


def promptly(channel: grpc.Channel, asked: signing_pb2.SignMetadataRequest) -> str:
    started = time.monotonic()
    outcome = outcome_of(channel, asked)
    assert time.monotonic() - started < PROMPT_S
    return outcome


def ahead(days: float, offset_s: int = 0) -> str:
    """So far from now, by a clock that is `offset_s` ahead."""
    moment = datetime.now(UTC) + timedelta(days=days, seconds=offset_s)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_sound(daemon: Daemon) -> None:
    names = {event["event"] for event in daemon.events()}
    assert not names & {"call_crashed", "thread_died", "token_thread_fault"}
    assert daemon.stop() == 0


def test_jumps_under_a_running_daemon(moved: Moved, channel: grpc.Channel) -> None:
    with moved.serve() as daemon, moved.installation.client() as admin:
        daemon.wait_for("daemon_ready")
        for version, jump in enumerate(JUMPS, start=2):
            size = len(entries_of(admin))
            moved.move(jump)
            honest = request(version, ahead(1))
            assert promptly(channel, honest) == "CLOCK_JUMPED"
            assert promptly(channel, request(version, ahead(1, jump))) == "CLOCK_JUMPED"
            # Whatever needs no wall clock goes on.
            assert admin.keys.get("timestamp").name == "timestamp"
            assert admin.tokens.list()[0].detail == ""
            assert len(entries_of(admin)) == size, "something was recorded at an unknown time"
            moved.move(0)
            assert promptly(channel, honest) == "signed"
        check_entries(entries_of(admin))
        check_sound(daemon)


@pytest.mark.parametrize("step", [61, -61, 240, -240])
def test_small_steps_move_the_window_and_no_deadline(
    moved: Moved, channel: grpc.Channel, step: int
) -> None:
    with moved.serve() as daemon:
        daemon.wait_for("daemon_ready")
        moved.move(step)
        # The shortest expiry is a minute from now: by the daemon's clock.
        late = request(2, ahead(0, step + 50))
        assert promptly(channel, late) == "EXPIRY_OUT_OF_WINDOW"
        assert promptly(channel, request(2, ahead(0, step + 90))) == "signed"
        check_sound(daemon)


@pytest.mark.parametrize("jump", [0, 900 * DAY_S, -900 * DAY_S])
def test_calls_under_way_keep_their_deadline(
    moved: Moved, channel: grpc.Channel, jump: int
) -> None:
    """The token hangs, the clock jumps: the deadline, the watchdog and streams do not notice."""
    with moved.serve() as daemon:
        daemon.wait_for("daemon_ready")
        worker = daemon.wait_for("token_worker_started")["pid"]
        assert outcome_of(channel, request(2, ahead(1))) == "signed"
        watching = tokens_pb2_grpc.TokenServiceStub(channel).WatchTokens(
            tokens_pb2.WatchTokensRequest(), timeout=WATCH_S
        )
        assert next(watching).token.name
        os.kill(worker, signal.SIGSTOP)
        jumping = threading.Timer(0.3, moved.move, [jump])
        jumping.start()
        started = time.monotonic()
        outcome = outcome_of(channel, request(3, ahead(1)), timeout_s=1.0)
        assert 0.9 < time.monotonic() - started < 1.0 + PROMPT_S
        assert outcome in {"DEADLINE_EXCEEDED", "TOKEN_DEADLINE"}
        jumping.join()
        daemon.wait_for("token_worker_started", count=2)
        assert TOKEN_TIMEOUT_S < time.monotonic() - started < TOKEN_TIMEOUT_S + 2 * PROMPT_S
        with pytest.raises(grpc.RpcError):
            list(watching)
        assert time.monotonic() - started < WATCH_S + 2 * PROMPT_S
        moved.move(0)
        daemon.wait_for("token_logged_in", count=2)
        check_sound(daemon)


@pytest.mark.parametrize(
    ("offset_s", "reason"),
    [
        (-900 * DAY_S, "CLOCK_BEFORE_BUILD"),
        (-40_000 * DAY_S, "CLOCK_BEFORE_BUILD"),
        (-DAY_S, "CLOCK_BEHIND_LOG"),
        (-6 * 3600, "CLOCK_BEHIND_LOG"),
    ],
)
def test_no_start_at_an_impossible_time(moved: Moved, offset_s: int, reason: str) -> None:
    with moved.serve(offset_s) as daemon:
        assert daemon.running.wait(30) == 69
    assert reason in daemon.log.read_text()


def test_a_clock_ahead_at_the_start_is_believed_and_then_held_to(
    moved: Moved, channel: grpc.Channel
) -> None:
    offset_s = 900 * DAY_S
    with moved.serve(offset_s) as daemon:
        daemon.wait_for("daemon_ready")
        assert promptly(channel, request(2, ahead(1))) == "EXPIRED"
        assert promptly(channel, request(2, ahead(1, offset_s))) == "signed"
        check_sound(daemon)
    with moved.serve() as daemon:
        assert daemon.running.wait(30) == 69
    assert "CLOCK_BEHIND_LOG" in daemon.log.read_text()


CALENDAR = {
    # Where the daemon's clock stands: the expiries of good, expired and impossible timestamps.
    "2028-02-28T23:57:00Z": (
        "2028-02-29T12:00:00Z",
        "2028-02-28T23:57:00Z",
        "2028-02-30T00:00:00Z",
    ),
    "2038-01-19T03:12:00Z": (
        "2038-01-19T03:20:00Z",
        "2038-01-19T03:12:00Z",
        "2038-02-29T00:00:00Z",
    ),
    "2262-04-11T12:00:00Z": (
        "2262-04-12T00:00:00Z",
        "2262-04-11T12:00:00Z",
        "2262-04-31T00:00:00Z",
    ),
}


@pytest.mark.parametrize("start", CALENDAR)
def test_days_of_the_calendar(moved: Moved, channel: grpc.Channel, start: str) -> None:
    good, expired, impossible = CALENDAR[start]
    offset_s = round((datetime.fromisoformat(start) - datetime.now(UTC)).total_seconds())
    with moved.serve(offset_s) as daemon:
        daemon.wait_for("daemon_ready")
        assert promptly(channel, request(2, impossible)) == "EXPIRES_MALFORMED"
        assert promptly(channel, request(2, expired)) == "EXPIRED"
        assert promptly(channel, request(2, good)) == "signed"
        check_sound(daemon)
    assert check_disk(moved.installation.ledger, moved.installation.anchor)
