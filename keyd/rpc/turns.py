"""Whose turn it is in a stream in which each message has its answer."""

from __future__ import annotations

import math
import time


class Turns:
    """One thread takes messages up, another answers them, a third asks: each writes its own."""

    def __init__(self) -> None:
        self._taken_up = 0
        self._answered = 0
        self._answered_at = 0.0

    def taken_up(self) -> None:
        """A message has come."""
        self._taken_up += 1

    def answered(self) -> None:
        """An answer has left."""
        self._answered_at = time.monotonic()
        self._answered += 1

    def peer_owes_since(self) -> float:
        """When the last answer left, monotonic, 0 before; math.inf while one is still to leave."""
        return math.inf if self._taken_up > self._answered else self._answered_at
