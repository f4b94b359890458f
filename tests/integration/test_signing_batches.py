"""Many payloads at once, and many callers at once: one path, one winner per version."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyd.errors import Equivocation, KeydError
from keyd.services.released import Released
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.tally import Promise, tallied
from tests.worlds import SIGNER, TIMEOUT_S, Author, active_author, make_key, open_world, sign_many

ROUNDS = 1000
CLIENTS = 16


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def with_bins(world: World, count: int) -> tuple[Author, list[str]]:
    author = active_author(world)
    author.keys["bins"] = make_key(world, "bins")
    bins = [f"bin-{number}" for number in range(count)]
    delegating = author.delegating(2, **{name: (1, ["bins"]) for name in bins})
    author.sign("targets", "targets", delegating)
    return author, bins


def test_batch_of_bins_makes_one_exchange_with_the_token(world: World) -> None:
    author, bins = with_bins(world, 50)
    exchanges = 0

    def count() -> None:
        nonlocal exchanges
        exchanges += 1

    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.before_sign = count
    requests = [author.request("bins", name, author.targets(days=90)) for name in bins]
    results = sign_many(world, SIGNER, requests, timeout_s=TIMEOUT_S)
    assert all(isinstance(result, Released) and result.accepted for result in results)
    assert exchanges == 1


def test_later_items_see_earlier_ones_and_a_refusal_stops_nothing(world: World) -> None:
    author, bins = with_bins(world, 2)
    listed = dict.fromkeys(bins, 1)
    requests = [
        *(author.request("bins", name, author.targets()) for name in bins),
        author.request("bins", "bin-0", author.targets(days=91)),
        author.request("snapshot", "snapshot", author.snapshot(2, targets=2, **listed)),
        author.request("timestamp", "timestamp", author.timestamp(2, snapshot=2)),
    ]
    results = sign_many(world, SIGNER, requests, timeout_s=TIMEOUT_S)
    assert [isinstance(result, Released) for result in results] == [True, True, False, True, True]
    assert isinstance(results[2], Equivocation)


def test_many_versions_of_one_role_in_one_batch(world: World) -> None:
    author, _ = with_bins(world, 1)
    versions = (*range(1, 21), 2)
    requests = [author.request("bins", "bin-0", author.targets(v)) for v in versions]
    results = sign_many(world, SIGNER, requests, timeout_s=TIMEOUT_S)
    assert all(isinstance(result, Released) for result in results)
    last = results[-1]
    assert isinstance(last, Released)
    assert last.replayed


def test_races_have_exactly_one_winner_each(world: World) -> None:
    """16 clients, the same role and version, different payloads: one payload is ever signed."""
    author = active_author(world)
    payloads = [[author.targets(2 + n, days=30 + c) for c in range(CLIENTS)] for n in range(ROUNDS)]

    def attempt(signed: dict[str, object]) -> Released | KeydError:
        try:
            return author.sign("targets", "targets", signed)
        except KeydError as refused:
            return refused

    with (
        tallied(Promise.ONE_PAYLOAD, "payloads racing for one version") as tally,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        for contenders in payloads:
            random.shuffle(contenders)
            tally.injected(CLIENTS)
            results = list(pool.map(attempt, contenders))
            winners = [result for result in results if isinstance(result, Released)]
            assert len(winners) == 1
            losers = {r.reason for r in results if isinstance(r, KeydError)}
            assert losers <= {"VERSION_ALREADY_SIGNED_DIFFERENTLY", "ROLE_BUSY"}


def test_same_payload_from_many_callers_is_one_signature(world: World) -> None:
    author = active_author(world)
    with (
        tallied(Promise.REPEATABLE, "the same bytes from many callers") as tally,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        for version in range(2, 40):
            signed = author.targets(version)
            tally.injected(CLIENTS)
            results = list(
                pool.map(lambda _, s=signed: author.sign("targets", "targets", s), range(CLIENTS))
            )
            assert len({result.signature for result in results}) == 1
