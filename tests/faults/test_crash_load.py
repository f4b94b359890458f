"""SIGKILL while four clients sign: what they received is recorded, nothing twice."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.daemon import Installation
from tests.faults.killing import (
    ANY_MOMENT,
    MAKING_KEYS,
    SIGNING,
    STARTING,
    kill_rounds,
    new_seed,
)


@pytest.mark.parametrize("part", range(2))
def test_kill_under_load(installation: Installation, part: int) -> None:
    kill_rounds(installation, 10 * [ANY_MOMENT], new_seed())


@pytest.mark.slow(seconds=70)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(20))
def test_kill_under_load_500_times(installation: Installation, part: int) -> None:
    kill_rounds(installation, 25 * [ANY_MOMENT], new_seed())


@pytest.mark.slow(seconds=150)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(20))
def test_kill_at_failpoints_under_load_500_times(installation: Installation, part: int) -> None:
    """Each place at least twice in a part, so 40 times or more in all; passages vary."""
    kill_at_failpoints(installation, 25)


def kill_at_failpoints(installation: Installation, kills: int) -> None:
    seed = new_seed()
    every = (*SIGNING, *MAKING_KEYS, *STARTING)
    places: list[str] = list(itertools.islice(itertools.cycle(every), kills))
    random.Random(seed).shuffle(places)
    kill_rounds(installation, places, seed)
