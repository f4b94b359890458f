"""A running daemon whose wall clock is moved under it: nothing outside its window, and no hang.

wall_clock.c moves the clock of the daemon alone; the test and its clients keep the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from keyd.backends.config import TokenConfig
from keyd.cli.case import case_of
from keyd.domain import canonical
from keyd.domain.officers import OfficerSet
from keyd.ledger.verification.verify import verify_ledger
from keyd.rpc.convert_officers import officers_out
from keyd_client import PendingApproval
from keyd_client.errors import ApprovalRequired, ProposalEnded
from keyd_protos.v1 import (
    keys_pb2,
    keys_pb2_grpc,
    signing_pb2,
    signing_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests.daemon import OPAQUE_KEY, REPOSITORY, TOKEN, Installation
from tests.faults.shim import put_shim
from tests.officers import person
from tests.recording import Recorder, check_disk, check_entries, entries_of
from tests.running import Daemon
from tests.serving import Refusal
from tests.tally import Promise, tallied

SOURCE = Path(__file__).with_name("wall_clock.c")
DAY_S = 86_400
TIMEOUT_S = 5.0
WATCH_S = 3.0
# The default of sign_timeout_s.
TOKEN_TIMEOUT_S = TokenConfig.sign_timeout_s
# What a refusal may take, on a busy machine; nothing waits for anything.
PROMPT_S = 3.0
TUF = keys_pb2.KEY_CONTENT_TUF
JUMP = "wall clock jumps under the daemon"
STEP = "wall clock steps by a minute or four"
HUNG = "wall clock jumps while the token hangs"
IMPOSSIBLE = "start at an impossible time"
CALENDAR_DAY = "leap day, 2038 and the end of nanoseconds"
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
        options = ("--allow-foreign-code",)
        return self.installation.serve(launcher=("env", *preload), options=options)


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


def reason_of(method: Callable[..., object], asked: Message, timeout_s: float = TIMEOUT_S) -> str:
    """Why a call was refused, or gRPC's own code; "" if it was not."""
    try:
        method(asked, timeout=timeout_s)
    except grpc.RpcError as error:
        refusal = Refusal()
        refusal.read(error)
        return refusal.reason or refusal.code
    return ""


def outcome_of(
    channel: grpc.Channel, asked: signing_pb2.SignMetadataRequest, timeout_s: float = TIMEOUT_S
) -> str:
    """Whether it was "signed", else why not."""
    method = signing_pb2_grpc.SigningServiceStub(channel).SignMetadata
    return reason_of(method, asked, timeout_s) or "signed"


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
    with (
        tallied(Promise.ONE_PAYLOAD, JUMP) as tally,
        moved.serve() as daemon,
        moved.installation.client() as admin,
    ):
        daemon.wait_for("daemon_ready")
        for version, jump in enumerate(JUMPS, start=2):
            size = len(entries_of(admin))
            moved.move(jump)
            tally.injected()
            honest = request(version, ahead(1))
            assert promptly(channel, honest) == "CLOCK_JUMPED"
            assert promptly(channel, request(version, ahead(1, jump))) == "CLOCK_JUMPED"
            # Whatever needs no wall clock goes on.
            assert admin.keys.get("timestamp").name == "timestamp"
            assert admin.tokens.list()[0].detail == ""
            assert len(entries_of(admin)) == size, "something was recorded at an unknown time"
            moved.move(0)
            began = time.monotonic()
            assert promptly(channel, honest) == "signed"
            tally.recovered(time.monotonic() - began)
        check_entries(entries_of(admin))
        check_sound(daemon)


def test_every_kind_of_work_waits_for_a_clock(moved: Moved, channel: grpc.Channel) -> None:
    """What must be recorded is refused, what must not goes on; all of it afterwards."""
    signing = signing_pb2_grpc.SigningServiceStub(channel)
    keys = keys_pb2_grpc.KeyServiceStub(channel)
    opaque = signing_pb2.SignOpaqueRequest(key=OPAQUE_KEY, data=b"layout")
    works: list[tuple[Callable[..., object], Message]] = [
        (signing.SignMetadata, request(2, ahead(1))),
        (signing.SignOpaque, opaque),
        (keys.CreateKey, keys_pb2.CreateKeyRequest(name="fresh", token=TOKEN, content=TUF)),
        (keys.SuspendKey, keys_pb2.SuspendKeyRequest(name="team-a")),
    ]
    with (
        tallied(Promise.NO_INTERNAL, JUMP) as tally,
        moved.serve() as daemon,
        moved.installation.client() as admin,
    ):
        daemon.wait_for("daemon_ready")
        size = admin.audit.size()
        for jump in (900 * DAY_S, -900 * DAY_S):
            moved.move(jump)
            tally.injected()
            assert {reason_of(method, asked) for method, asked in works} == {"CLOCK_JUMPED"}
            assert admin.audit.size() == size
        moved.move(0)
        assert [reason_of(method, asked) for method, asked in works] == [""] * len(works)
        check_entries(entries_of(admin))
        check_sound(daemon)


def test_a_token_lost_at_a_wrong_time_is_back_at_the_right_one(
    moved: Moved, channel: grpc.Channel
) -> None:
    """No PIN is presented before the attempt can be recorded, and no restart is needed."""
    with tallied(Promise.TOKENS_RECOVER, JUMP) as tally, moved.serve() as daemon:
        daemon.wait_for("daemon_ready")
        worker = daemon.wait_for("token_worker_started")["pid"]
        moved.move(-900 * DAY_S)
        tally.injected()
        os.kill(worker, signal.SIGKILL)
        daemon.wait_for("token_worker_started", count=2)
        assert promptly(channel, request(2, ahead(1))) == "CLOCK_JUMPED"
        began = time.monotonic()
        moved.move(0)
        daemon.wait_for("token_logged_in", count=2)
        assert promptly(channel, request(2, ahead(1))) == "signed"
        tally.recovered(time.monotonic() - began)
        check_sound(daemon)


@pytest.mark.parametrize("step", [61, -61, 240, -240])
def test_small_steps_move_the_window_and_no_deadline(
    moved: Moved, channel: grpc.Channel, step: int
) -> None:
    with tallied(Promise.NO_INTERNAL, STEP) as tally, moved.serve() as daemon:
        daemon.wait_for("daemon_ready")
        moved.move(step)
        tally.injected()
        # The shortest expiry is a minute from now: by the daemon's clock.
        late = request(2, ahead(0, step + 50))
        assert promptly(channel, late) == "EXPIRY_OUT_OF_WINDOW"
        assert promptly(channel, request(2, ahead(0, step + 90))) == "signed"
        check_sound(daemon)


@pytest.mark.parametrize("jump", [0, 900 * DAY_S, -900 * DAY_S])
def test_calls_under_way_keep_their_deadline(
    moved: Moved, channel: grpc.Channel, shim_module: Path, jump: int
) -> None:
    """The token hangs, the clock jumps: the deadline, the watchdog and streams do not notice."""
    orders = put_shim(moved.installation, shim_module, sign_timeout_s=TOKEN_TIMEOUT_S)
    with tallied(Promise.TOKENS_RECOVER, HUNG) as tally, moved.serve() as daemon:
        daemon.wait_for("daemon_ready")
        assert outcome_of(channel, request(2, ahead(1))) == "signed"
        watching = tokens_pb2_grpc.TokenServiceStub(channel).WatchTokens(
            tokens_pb2.WatchTokensRequest(), timeout=WATCH_S
        )
        assert next(watching).token.name
        orders.once("C_Sign", "hang")
        tally.injected()
        with ThreadPoolExecutor(1) as pool, moved.installation.client() as admin:
            size = admin.audit.size()
            started = time.monotonic()
            calling = pool.submit(outcome_of, channel, request(3, ahead(1)), timeout_s=1.5)
            while admin.audit.size() == size and not calling.done():
                time.sleep(0.01)
            moved.move(jump)
            # The daemon's word may come first: that time is up, or that it cannot be recorded.
            assert calling.result() in {"DEADLINE_EXCEEDED", "TOKEN_DEADLINE", "CLOCK_JUMPED"}
        assert 1.4 < time.monotonic() - started < 1.5 + PROMPT_S
        daemon.wait_for("token_worker_started", count=2)
        assert TOKEN_TIMEOUT_S < time.monotonic() - started < TOKEN_TIMEOUT_S + 2 * PROMPT_S
        with pytest.raises(grpc.RpcError):
            list(watching)
        assert time.monotonic() - started < WATCH_S + 2 * PROMPT_S
        moved.move(0)
        daemon.wait_for("token_logged_in", count=2)
        tally.recovered(time.monotonic() - started)
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
    with tallied(Promise.STATE_GUARDED, IMPOSSIBLE) as tally, moved.serve(offset_s) as daemon:
        tally.injected()
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
    with tallied(Promise.NO_INTERNAL, CALENDAR_DAY) as tally, moved.serve(offset_s) as daemon:
        daemon.wait_for("daemon_ready")
        tally.injected()
        assert promptly(channel, request(2, impossible)) == "EXPIRES_MALFORMED"
        assert promptly(channel, request(2, expired)) == "EXPIRED"
        assert promptly(channel, request(2, good)) == "signed"
        check_sound(daemon)
    assert check_disk(moved.installation.ledger, moved.installation.anchor)


def test_an_expired_proposal_is_over(moved: Moved) -> None:
    """Approved in time, or approved too late: after its end it allows nothing."""
    installation = moved.installation
    people = {name: person(name) for name in ("alice", "bob", "carol")}
    with moved.serve() as daemon, installation.client() as client:
        daemon.wait_for("daemon_ready")
        officers = OfficerSet(tuple(each.officer for each in people.values()))
        client.officers.enrol_first(officers_out(officers), 2)
        recorder = Recorder(client, REPOSITORY)
        root = recorder.writer.root(2, days=370)
        change = recorder.change_digest(root)
        pending = client.sign_or_propose(
            "root-1", canonical.encode(root), role="root", confirmed_change=change
        )
        assert isinstance(pending, PendingApproval)
        basis = case_of(client.proposals.get(pending.proposal), None).basis
        client.proposals.decide(pending.proposal, people["alice"].envelope(basis))
        assert daemon.stop() == 0
    with moved.serve(31 * DAY_S) as daemon, installation.client() as client:
        daemon.wait_for("daemon_ready")
        late = replace(pending, _proposals=client.proposals)
        with pytest.raises(ProposalEnded, match="PROPOSAL_EXPIRED"):
            late.wait(5)
        with pytest.raises(ApprovalRequired, match=r"PROPOSAL_STALE.*has expired"):
            client.proposals.decide(pending.proposal, people["bob"].envelope(basis))
        with pytest.raises(ApprovalRequired, match="APPROVAL_REQUIRED"):
            Recorder(client, REPOSITORY).sign("root-1", "root", root, change)
        shown = installation.keyd("proposal", "list")
        assert "expired" in shown.out
        assert daemon.stop() == 0
    assert verify_ledger(installation.ledger).sound
