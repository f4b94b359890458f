"""Batches of one caller in a row: while one is at the token, the next is judged and reserved.

Each keeps the order of a signature, and sees all that the batches before it left, as if they had
come one by one: a batch that could depend on another waits until that one is finished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyd.domain.policy import Caller
from keyd.services.reading import SigningRequest
from keyd.services.reserve import Reserved
from keyd.services.sign import Ask, Batch, Outcome, note_refusal, waves
from keyd.services.token_call import Deadline
from keyd.services.world import World

METHOD = "SigningService.BatchSignMetadata"


@dataclass(eq=False)
class Begun:
    """A batch on its way; `reserved` is what waits for the token."""

    batch: Batch
    roles: frozenset[tuple[str, str]] = frozenset()
    reserved: dict[int, Reserved] = field(default_factory=dict)


class Pipeline:
    """One thread begins batches, another finishes them in the same order. Use it in a `with`.

    What was begun and not finished by the end of the block is finished there: no announced token
    call stays without an entry of how it ended.
    """

    def __init__(self, world: World, caller: Caller) -> None:
        self._world = world
        self._caller = caller
        self._under_way: deque[Begun] = deque()
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
        for begun in list(self._under_way):
            self.finish(begun)

    def begin(self, requests: Sequence[SigningRequest], *, timeout_s: float) -> Begun:
        """Judge and reserve; what depends on batches under way first waits for them.

        Raises: RuntimeError after the end of the block.
        """
        deadline = Deadline(self._world.clock, timeout_s)
        asks = [Ask(self._caller, request, deadline, METHOD) for request in requests]
        parts = list(waves(requests))
        alone = len(parts) == 1 and all(request.stands_alone() for request in requests)
        roles = frozenset((request.repository, request.role) for request in requests)
        self._enter(roles if alone else None)
        begun = Begun(Batch(self._world, asks), roles)
        try:
            if alone:
                begun.reserved, again = begun.batch.reserve(parts[0])
                begun.batch.run(again)
            else:
                for part in parts:
                    begun.batch.run(part)
            with self._changed:
                self._under_way.append(begun)
        finally:
            with self._changed:
                self._beginning = False
                self._changed.notify_all()
        return begun

    def finish(self, begun: Begun) -> list[Outcome]:
        """One result for each request, in order."""
        try:
            begun.batch.finish(begun.reserved)
        finally:
            with self._changed:
                self._under_way.remove(begun)
                self._changed.notify_all()
        outcomes = begun.batch.settled()
        for ask, outcome in zip(begun.batch.asks, outcomes, strict=True):
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
