"""Searches wait for key generations and these for searches, the former not for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from keyd.worker.turns import Turns

LONG_S = 20.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def entered(
    pool: ThreadPoolExecutor, turn: AbstractContextManager[None], inside: threading.Event
) -> Future[None]:
    """Take the turn in another thread and give it back at once."""

    def take() -> None:
        with turn:
            inside.set()

    return pool.submit(take)


def test_searches_run_beside_each_other(pool: ThreadPoolExecutor) -> None:
    turns, inside = Turns(LONG_S), threading.Event()
    with turns.search():
        entered(pool, turns.search(), inside).result(LONG_S / 2)


@pytest.mark.parametrize("first", ["search", "generation"])
def test_a_generation_waits_for_what_runs(first: str, pool: ThreadPoolExecutor) -> None:
    turns, inside = Turns(LONG_S), threading.Event()
    with getattr(turns, first)():
        waiting = entered(pool, turns.generation(), inside)
        assert not inside.wait(0.1)
    waiting.result(LONG_S / 2)


def test_a_search_lets_a_generation_that_waits_go_first(pool: ThreadPoolExecutor) -> None:
    turns, generated, searched = Turns(LONG_S), threading.Event(), threading.Event()
    with turns.search():
        entered(pool, turns.generation(), generated)
        assert not generated.wait(0.1)
        later = entered(pool, turns.search(), searched)
        assert not searched.wait(0.1)
    later.result(LONG_S / 2)
    assert generated.wait(LONG_S / 2)


def test_a_search_does_not_wait_for_ever(pool: ThreadPoolExecutor) -> None:
    turns, inside = Turns(0.1), threading.Event()
    with turns.generation():
        entered(pool, turns.search(), inside).result(LONG_S)
