"""Batches of one caller in a row: while one is at the token, the next is judged and reserved.

Each keeps the order of a signature, and sees all that the batches before it left, as if they had
come one by one: a batch that could depend on another waits until that one is finished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.domain.policy import Caller
from keyd.services.reading import SigningRequest
from keyd.services.sign import Ask, Begun, Outcome, begin, note_refusal
from keyd.services.token_call import Deadline
from keyd.services.world import World

METHOD = "SigningService.BatchSignMetadata"


@dataclass(eq=False)
class Underway:
    """A batch on its way, and which roles it is for."""

    asks: Sequence[Ask]
    roles: frozenset[tuple[str, str]]
    begun: Begun


class Pipeline:
    """One thread begins batches, another finishes them in the same order. Use it in a `with`.

    What was begun and not finished by the end of the block is finished there: no announced token
    call stays without an entry of how it ended.
    """

    def __init__(self, world: World, caller: Caller) -> None:
        self._world = world
        self._caller = caller
        self._under_way: deque[Underway] = deque()
        self._beginning = False
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._beginning)
        for batch in list(self._under_way):
            self.finish(batch)

    def begin(self, requests: Sequence[SigningRequest], *, timeout_s: float) -> Underway:
        """Judge and reserve; what depends on batches under way first waits for them.

        Raises: RuntimeError after the end of the block.
        """
        deadline = Deadline(self._world.clock, timeout_s)
        asks = [Ask(self._caller, request, deadline, METHOD) for request in requests]
        alone = all(request.stands_alone() for request in requests)
        roles = frozenset((request.repository, request.role) for request in requests)
        self._enter(roles if alone else None)
        try:
            batch = Underway(asks, roles, begin(self._world, asks))
            with self._changed:
                self._under_way.append(batch)
        finally:
            with self._changed:
                self._beginning = False
                self._changed.notify_all()
        return batch

    def finish(self, batch: Underway) -> list[Outcome]:
        """One result for each request, in order."""
        try:
            outcomes = batch.begun.finish()
        finally:
            with self._changed:
                self._under_way.remove(batch)
                self._changed.notify_all()
        for ask, outcome in zip(batch.asks, outcomes, strict=True):
            note_refusal(self._world, ask, outcome)
        return outcomes

    def _enter(self, roles: frozenset[tuple[str, str]] | None) -> None:
        """Begin when no batch under way touches these roles; None: when there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._may_begin(roles))
            if self._closed:
                raise RuntimeError("the batches of this call have ended")
            self._beginning = True

    def _may_begin(self, roles: frozenset[tuple[str, str]] | None) -> bool:
        if roles is None:
            return not self._under_way
        return all(roles.isdisjoint(other.roles) for other in self._under_way)
