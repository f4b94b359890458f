"""Batches of one caller in a row: what overlaps, what waits, what an early end leaves behind."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waiting
from pathlib import Path

import pytest

from keyd.services.pipeline import Pipeline, Underway
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd.services.world import World
from tests.worlds import SIGNER, TIMEOUT_S, Author, active_author, make_key, open_world

ROLES = ("one", "two", "three")
# Long enough for a batch that may begin to do so, on a busy machine as well.
A_WHILE_S = 0.3


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


@pytest.fixture
def author(world: World) -> Author:
    author = active_author(world)
    author.keys["bins"] = make_key(world, "bins")
    roles = {name: (1, ["bins"]) for name in ROLES}
    author.sign("targets", "targets", author.delegating(2, **roles))
    return author


def request(author: Author, role: str, version: int = 1) -> SigningRequest:
    return author.request("bins", role, author.targets(version))


def begin(pipeline: Pipeline, *requests: SigningRequest) -> Underway:
    return pipeline.begin(requests, timeout_s=TIMEOUT_S)


def released(pipeline: Pipeline, begun: Underway) -> list[Released]:
    outcomes = pipeline.finish(begun)
    assert all(isinstance(outcome, Released) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Released)]


def open_intents(world: World) -> int:
    return len(world.ledger.read(lambda view: view.open_intents()))


def waits(future: Future[Underway]) -> bool:
    try:
        future.result(A_WHILE_S)
    except Waiting:
        return True
    return False


def test_batches_for_different_roles_overlap(world: World, author: Author) -> None:
    with Pipeline(world, SIGNER) as pipeline:
        first = begin(pipeline, request(author, "one"))
        second = begin(pipeline, request(author, "two"))
        assert open_intents(world) == 2
        assert [made.role for made in released(pipeline, first)] == ["one"]
        assert [made.role for made in released(pipeline, second)] == ["two"]
    assert open_intents(world) == 0


def test_a_batch_waits_for_the_one_whose_role_it_continues(world: World, author: Author) -> None:
    with Pipeline(world, SIGNER) as pipeline, ThreadPoolExecutor(1) as pool:
        first = begin(pipeline, request(author, "one"))
        second = pool.submit(begin, pipeline, request(author, "one", 2), request(author, "two"))
        assert waits(second)
        assert released(pipeline, first)[0].version == 1
        made = released(pipeline, second.result(TIMEOUT_S))
        assert [(one.role, one.version) for one in made] == [("one", 2), ("two", 1)]


def test_a_batch_with_references_waits_for_all(world: World, author: Author) -> None:
    with Pipeline(world, SIGNER) as pipeline, ThreadPoolExecutor(1) as pool:
        first = begin(pipeline, request(author, "one"))
        listed = author.snapshot(2, targets=2, one=1)
        second = pool.submit(begin, pipeline, author.request("snapshot", "snapshot", listed))
        assert waits(second)
        assert released(pipeline, first)[0].accepted
        assert released(pipeline, second.result(TIMEOUT_S))[0].accepted


def test_what_was_begun_is_finished_when_the_call_ends_early(world: World, author: Author) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Pipeline(world, SIGNER) as pipeline:
            begin(pipeline, request(author, "one"))
            late = pool.submit(begin, pipeline, request(author, "one", 2))
            assert waits(late)
        assert isinstance(late.exception(TIMEOUT_S), RuntimeError)
    assert open_intents(world) == 0
    replayed = author.sign("bins", "one", author.targets(1))
    assert replayed.replayed
    with pytest.raises(RuntimeError):
        begin(pipeline, request(author, "two"))
