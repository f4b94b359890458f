"""Callers whose calls share a snapshot, a commit and an exchange get exactly what is theirs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyd.domain.audit import Event
from keyd.domain.policy import Caller
from keyd.errors import KeydError
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd.services.sign import sign, signing_groups
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.worlds import ADMIN, SIGNER, TIMEOUT_S, Author, active_author, make_key, open_world

STRANGER = Caller("unix:stranger", local_admin=False)
CALLS = 24


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def bins_of(world: World) -> tuple[Author, list[str]]:
    author = active_author(world)
    author.keys["bins"] = make_key(world, "bins")
    bins = [f"bin-{number}" for number in range(CALLS)]
    delegating = author.delegating(2, **{name: (1, ["bins"]) for name in bins})
    author.sign("targets", "targets", delegating)
    return author, bins


class Crowd:
    """Callers that meet: the token answers nobody before all have called."""

    def __init__(self, world: World, calls: int) -> None:
        self._world = world
        self._groups = signing_groups(world)
        self._pool = ThreadPoolExecutor(calls)
        self._present = threading.Semaphore(0)
        self._calls = calls
        self.exchanges = 0
        token = world.tokens.get("soft")
        assert isinstance(token, SoftwareToken)
        token.before_sign = self._meet

    def _meet(self) -> None:
        self.exchanges += 1
        if self.exchanges == 1:
            for _ in range(self._calls):
                assert self._present.acquire(timeout=TIMEOUT_S)

    def _sign(self, caller: Caller, request: SigningRequest) -> Released | KeydError:
        self._present.release()
        try:
            return sign(self._world, caller, request, timeout_s=TIMEOUT_S, groups=self._groups)
        except KeydError as refused:
            return refused

    def sign(self, asked: list[tuple[Caller, SigningRequest]]) -> Iterator[Released | KeydError]:
        with self._pool as pool:
            yield from pool.map(self._sign, *zip(*asked, strict=True))


def entries(world: World, event: Event) -> list[dict[str, object]]:
    leaves = world.ledger.read(lambda view: list(view.leaves(0, view.log_size())))
    read = [json.loads(leaf.data) for leaf in leaves]
    return [entry for entry in read if entry["event"] == event]


def test_every_caller_gets_its_own_signature_and_is_named_in_the_log(world: World) -> None:
    author, bins = bins_of(world)
    asked = [
        (ADMIN if place % 2 else SIGNER, author.request("bins", name, author.targets()))
        for place, name in enumerate(bins)
    ]
    crowd = Crowd(world, CALLS)
    outcomes = list(crowd.sign(asked))
    assert crowd.exchanges < CALLS / 2
    for (caller, request), outcome in zip(asked, outcomes, strict=True):
        assert isinstance(outcome, Released)
        assert (outcome.role, outcome.accepted) == (request.role, True)
        for event in (Event.SIGNATURE_INTENDED, Event.SIGNATURE_COMPLETED):
            [entry] = [each for each in entries(world, event) if each["role"] == request.role]
            assert entry["principal"] == caller.principal


def test_refusals_in_a_group_stay_with_who_asked(world: World) -> None:
    author, bins = bins_of(world)
    asked = [
        (STRANGER if place % 3 == 0 else SIGNER, author.request("bins", name, author.targets()))
        for place, name in enumerate(bins)
    ]
    outcomes = list(Crowd(world, CALLS).sign(asked))
    for (caller, _), outcome in zip(asked, outcomes, strict=True):
        if caller is STRANGER:
            assert isinstance(outcome, KeydError)
            assert outcome.reason == "POLICY_DENIES"
        else:
            assert isinstance(outcome, Released)
    denied = entries(world, Event.DENIED)
    assert {entry["principal"] for entry in denied} == {STRANGER.principal}
    assert len(denied) == CALLS / 3


def test_the_same_bytes_at_once_are_one_signature(world: World) -> None:
    author, bins = bins_of(world)
    request = author.request("bins", bins[0], author.targets())
    outcomes = list(Crowd(world, CALLS).sign([(SIGNER, request)] * CALLS))
    made = [outcome for outcome in outcomes if isinstance(outcome, Released)]
    assert len(made) == CALLS
    assert len({outcome.signature for outcome in made}) == 1
    assert sum(not outcome.replayed for outcome in made) == 1


def test_one_version_with_many_payloads_has_one_winner(world: World) -> None:
    author, bins = bins_of(world)
    asked = [
        (SIGNER, author.request("bins", bins[0], author.targets(days=30 + number)))
        for number in range(CALLS)
    ]
    outcomes = list(Crowd(world, CALLS).sign(asked))
    made = [outcome for outcome in outcomes if isinstance(outcome, Released)]
    assert len(made) == 1
    refused = {outcome.reason for outcome in outcomes if isinstance(outcome, KeydError)}
    assert refused == {"VERSION_ALREADY_SIGNED_DIFFERENTLY"}
