"""The ports a use case needs, in one value; `keyd.daemon` makes it, tests make their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from keyd.domain.policy import Caller, Policy
from keyd.domain.rehearsal import Act, Play
from keyd.errors import KeydError
from keyd.ports import Clock, Ledger, Rehearsal, Tokens


class PolicySource(Protocol):
    """The policy in force; it may change between two calls."""

    def current(self) -> Policy: ...


class Denials(Protocol):
    """Where refused calls go on record."""

    def record(self, caller: Caller, method: str, refusal: KeydError, subject: str) -> None:
        """Log one refusal, or only count it when this principal is over its rate."""


class Unrehearsed:
    """Where nobody rehearses, nothing is released."""

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        """One act that is never as promised."""
        client = f"no client of the {len(play.roots)} roots"
        return (Act(client, must_reach=True, reached=False, said="there is no rehearsal here"),)


class UnderWay:
    """The names of what is being done at this moment, in whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    @contextmanager
    def mark(self, name: str) -> Iterator[bool]:
        """Within the block `name` is under way; False if it was before, and goes on elsewhere."""
        with self._lock:
            first = name not in self._names
            self._names.add(name)
        try:
            yield first
        finally:
            if first:
                self._names.discard(name)


@dataclass(frozen=True)
class World:
    """Everything outside the use cases.

    `opaque_may_sign_tuf` lifts the refusal of TUF-like bytes for opaque keys; it has an effect on
    development ledgers only, where test suites sign deliberately bad metadata.
    """

    ledger: Ledger
    tokens: Tokens
    clock: Clock
    policy: PolicySource
    denials: Denials
    opaque_may_sign_tuf: bool = False
    rehearsal: Rehearsal = field(default_factory=Unrehearsed)
    rehearsed_now: UnderWay = field(default_factory=UnderWay)
