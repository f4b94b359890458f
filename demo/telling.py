"""How the demo tells its story: numbered steps, what each found, how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Unexpected(Exception):
    """Something that the demo promises did not happen."""


class Story:
    """Prints steps as they begin and facts as they are known."""

    def __init__(self) -> None:
        self._steps = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One numbered step; its time stands below it."""
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)
        began = time.monotonic()
        yield
        print(f"   ({time.monotonic() - began:.2f} s)", flush=True)

    def say(self, fact: str) -> None:
        """One line of fact."""
        print(f"   {fact}", flush=True)


def expect(condition: object, what: str) -> None:
    """Raises: Unexpected, saying `what` should have been."""
    if not condition:
        raise Unexpected(what)
