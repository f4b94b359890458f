"""Key generations and searches of one process, kept apart.

Beside a search SoftHSM reads objects that it has half written: the generation fails, or what it
made lacks attributes. Signing by a handle found before disturbs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Less than the time after which a signature is given up: a long generation costs nobody a worker.
_PATIENCE_S = 1.0


class Turns:
    """Searches run beside each other, a key generation alone; it goes before later searches."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._change = threading.Condition()
        self._one_generation = threading.Lock()
        self._searches = 0
        self._generating = False

    @contextmanager
    def search(self) -> Iterator[None]:
        """Wait for a generation, but only as long as a signature can wait."""
        with self._change:
            self._change.wait_for(lambda: not self._generating, self._patience_s)
            self._searches += 1
        try:
            yield
        finally:
            with self._change:
                self._searches -= 1
                self._change.notify_all()

    @contextmanager
    def generation(self) -> Iterator[None]:
        """Wait for other generations, then for the searches under way."""
        with self._one_generation:
            with self._change:
                self._generating = True
                self._change.wait_for(lambda: not self._searches, self._patience_s)
            try:
                yield
            finally:
                with self._change:
                    self._generating = False
                    self._change.notify_all()
