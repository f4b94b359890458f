"""The clock stops being sane at its n-th look, for every n: a typed refusal, and nothing is lost.

What SystemClock does then is in tests/unit/daemon/test_clock.py; here is what its refusal does to
work that is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.domain.keys import Content, KeyState
from keyd.domain.records import IntentState
from keyd.domain.trust import default_rules
from keyd.errors import BackendUnavailable, InvalidRequest, KeydError, PolicyViolation
from keyd.services.keys import change_state
from keyd.services.opaque import OpaqueRequest, sign_opaque
from keyd.services.recovery import close_open_intents
from keyd.services.released import Released
from keyd.services.repositories import set_role_rules
from keyd.services.world import World
from tests.authors import Signed
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.tally import Promise, tallied
from tests.worlds import (
    ADMIN,
    SIGNER,
    TIMEOUT_S,
    Author,
    active_author,
    make_key,
    open_world,
    sign_many,
)

NOW = datetime(2030, 6, 1, tzinfo=UTC)


class MistrustedClock(TestClock):
    """Sane for so many looks, then not until it is set right. Monotonic time does not care."""

    def __init__(self, now: datetime = NOW) -> None:
        super().__init__(now)
        self.looks_left: int | None = None

    def now(self) -> datetime:
        if self.looks_left is not None:
            self.looks_left -= 1
            if self.looks_left < 0:
                raise BackendUnavailable("CLOCK_JUMPED", "the system clock jumped")
        return super().now()


@dataclass
class Scene:
    """A repository in use, and a clock to be mistrusted."""

    world: World
    clock: MistrustedClock
    token: SoftwareToken
    author: Author

    def sign(self, *signed: Signed, request_id: str = "") -> list[Released]:
        """Have each payload signed for the role of its own type. Raises the first refusal."""
        requests = [
            self.author.request(one["_type"], one["_type"], one, request_id=request_id)
            for one in signed
        ]
        outcomes = sign_many(self.world, SIGNER, requests, timeout_s=TIMEOUT_S)
        for outcome in outcomes:
            if isinstance(outcome, KeydError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Released)]


def new_scene(directory: Path) -> Scene:
    clock = MistrustedClock()
    # The token has a clock of its own: looks are counted in the daemon.
    token = SoftwareToken("soft", TestClock(NOW))
    world = open_world(directory, clock=clock, tokens=FakeTokens(token))
    author = active_author(world)
    make_key(world, "layouts", content=Content.OPAQUE)
    return Scene(world, clock, token, author)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return new_scene(tmp_path)


# Prepares one round of work, for which a sane clock may be needed, and returns it to be done.
Work = Callable[[Scene, int], Callable[[], object]]


def sign_one(scene: Scene, round_: int) -> Callable[[], object]:
    payload = scene.author.timestamp(round_ + 2)
    return lambda: scene.sign(payload, request_id=f"id-{round_}")


def sign_a_batch(scene: Scene, round_: int) -> Callable[[], object]:
    payloads = scene.author.snapshot(round_ + 2), scene.author.timestamp(round_ + 2)
    return lambda: scene.sign(*payloads)


def sign_bytes(scene: Scene, round_: int) -> Callable[[], object]:
    request = OpaqueRequest(key="layouts", data=b"%d" % round_)
    return lambda: sign_opaque(scene.world, SIGNER, request, timeout_s=TIMEOUT_S)


def make_a_key(scene: Scene, round_: int) -> Callable[[], object]:
    return lambda: make_key(scene.world, f"new-{round_}")


def suspend_a_key(scene: Scene, round_: int) -> Callable[[], object]:
    name = make_key(scene.world, f"new-{round_}", content=Content.OPAQUE).name
    return lambda: change_state(
        scene.world, ADMIN, "KeyService.SuspendKey", name, new=KeyState.SUSPENDED, comment=""
    )


def change_rules(scene: Scene, round_: int) -> Callable[[], object]:
    rules = default_rules("timestamp")
    return lambda: set_role_rules(scene.world, ADMIN, "demo", "timestamp", rules=rules, comment="")


@pytest.mark.parametrize(
    "prepare",
    [sign_one, sign_a_batch, sign_bytes, make_a_key, suspend_a_key, change_rules],
    ids=lambda prepare: prepare.__name__,
)
def test_every_look_may_be_the_last(scene: Scene, prepare: Work) -> None:
    with tallied(Promise.REPEATABLE, "clock mistrusted at the n-th look of a call") as tally:
        for looks in range(50):
            work = prepare(scene, looks)
            scene.clock.looks_left = looks
            try:
                work()
            except BackendUnavailable as refused:
                reason = refused.reason
            else:
                break
            finally:
                scene.clock.looks_left = None
            tally.injected()
            assert reason == "CLOCK_JUMPED"
            # What the refusal asks for: the clock set right, and a new start.
            close_open_intents(scene.world.ledger, scene.clock)
            assert work()
        assert 0 < looks < 49
    assert not scene.world.ledger.read(lambda view: view.open_intents())


def test_no_token_is_asked_at_a_time_that_nobody_knows(scene: Scene) -> None:
    payload, before = scene.author.timestamp(2), scene.token.signed
    scene.clock.looks_left = 0
    with pytest.raises(BackendUnavailable, match="CLOCK_JUMPED"):
        scene.sign(payload)
    with pytest.raises(BackendUnavailable, match="CLOCK_JUMPED"):
        sign_bytes(scene, 0)()
    assert scene.token.signed == before


def test_an_intent_without_end_is_closed_at_the_next_start(scene: Scene) -> None:
    payload = scene.author.timestamp(2)
    scene.token.before_sign = lambda: setattr(scene.clock, "looks_left", 0)
    with pytest.raises(BackendUnavailable, match="CLOCK_JUMPED"):
        scene.sign(payload)
    scene.clock.looks_left, scene.token.before_sign = None, lambda: None
    [intent] = scene.world.ledger.read(lambda view: view.open_intents())
    assert intent.state is IntentState.OPEN
    assert close_open_intents(scene.world.ledger, scene.clock) == 1
    # The version stays bound to its bytes; only they are signed under it.
    other = payload | scene.author.common("timestamp", 2, days=0.5)
    with pytest.raises(PolicyViolation, match="VERSION_ALREADY_SIGNED_DIFFERENTLY"):
        scene.sign(other)
    assert [made.replayed for made in scene.sign(payload)] == [False]


# --- windows --------------------------------------------------------------------------------------


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def outcome_of(scene: Scene, expires: str, version: int = 2) -> str:
    meta = {"snapshot.json": {"version": 1}}
    signed = {"_type": "timestamp", "spec_version": "1.0.31", "version": version, "meta": meta}
    try:
        scene.sign(signed | {"expires": expires})
    except (PolicyViolation, InvalidRequest) as refused:
        return refused.reason
    return "signed"


SHORTEST = default_rules("timestamp").expiry_min_s
LONGEST = default_rules("timestamp").expiry_max_s
SECOND = timedelta(seconds=1)
ALMOST = timedelta(microseconds=999_999)


@pytest.mark.parametrize(
    ("left", "since", "expected"),
    [
        (timedelta(0), timedelta(0), "EXPIRED"),
        (-SECOND, timedelta(0), "EXPIRED"),
        (SECOND, SECOND, "EXPIRED"),
        (SECOND, ALMOST, "EXPIRY_OUT_OF_WINDOW"),
        (timedelta(seconds=SHORTEST), timedelta(0), "signed"),
        (timedelta(seconds=SHORTEST), timedelta(microseconds=1), "EXPIRY_OUT_OF_WINDOW"),
        (timedelta(seconds=SHORTEST) - SECOND, timedelta(0), "EXPIRY_OUT_OF_WINDOW"),
        (timedelta(seconds=LONGEST), timedelta(0), "signed"),
        (timedelta(seconds=LONGEST) + SECOND, timedelta(0), "EXPIRY_OUT_OF_WINDOW"),
        (timedelta(seconds=LONGEST) + SECOND, SECOND, "signed"),
        (timedelta(days=900), timedelta(0), "EXPIRY_OUT_OF_WINDOW"),
        (timedelta(days=-900), timedelta(0), "EXPIRED"),
    ],
)
def test_the_edges_of_the_window(
    scene: Scene, left: timedelta, since: timedelta, expected: str
) -> None:
    scene.clock.advance(seconds=since.total_seconds())
    assert outcome_of(scene, text(NOW + left)) == expected


DATES = [
    ("2028-02-29T00:00:00Z", "2028-02-28T23:58:59Z", "signed"),
    ("2028-03-01T00:00:00Z", "2028-02-29T23:58:59Z", "signed"),
    ("2027-02-29T00:00:00Z", "2027-02-28T12:00:00Z", "EXPIRES_MALFORMED"),
    ("2100-02-29T00:00:00Z", "2100-02-28T12:00:00Z", "EXPIRES_MALFORMED"),
    ("2038-01-19T03:14:08Z", "2038-01-19T03:00:00Z", "signed"),
    ("2038-01-19T03:14:08Z", "2038-01-19T03:14:08Z", "EXPIRED"),
    ("2106-02-07T06:28:17Z", "2106-02-07T06:28:00Z", "EXPIRY_OUT_OF_WINDOW"),
    ("9999-12-31T23:59:59Z", "9999-12-31T00:00:00Z", "signed"),
    ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "EXPIRED"),
    ("10000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "EXPIRES_MALFORMED"),
    ("2030-06-02T23:59:60Z", "2030-06-02T00:00:00Z", "EXPIRES_MALFORMED"),
    ("2030-06-02T24:00:00Z", "2030-06-02T00:00:00Z", "EXPIRES_MALFORMED"),
]


@pytest.mark.parametrize(("expires", "now", "expected"), DATES)
def test_days_of_the_calendar(tmp_path: Path, expires: str, now: str, expected: str) -> None:
    scene = new_scene(tmp_path)
    moment = datetime.strptime(now, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    scene.clock.advance(seconds=(moment - NOW).total_seconds())
    assert outcome_of(scene, expires) == expected


@pytest.mark.parametrize("days", [900, -900, 1 / 24, -1 / 24])
def test_a_clock_that_lies_throughout_signs_for_its_own_window_only(
    scene: Scene, days: float
) -> None:
    """What a jump that nobody could notice costs: honest expiries are refused, or look too long."""
    honest = [text(NOW + timedelta(days=left)) for left in (1, 7, 30)]
    scene.clock.advance(days=days)
    wrong_now = NOW + timedelta(days=days)
    for version, expires in enumerate(honest, start=2):
        left = datetime.fromisoformat(expires) - wrong_now
        inside = SHORTEST <= left.total_seconds() <= LONGEST
        assert (outcome_of(scene, expires, version) == "signed") is inside
