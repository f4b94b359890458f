"""High-water marks: the highest version used, per role, and the payload it was used for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Mark(NamedTuple):
    """`version` was used in `epoch`; `digest` is its payload's, "" if that is not known."""

    repository: str
    role: str
    epoch: int
    version: int
    digest: str


class Marks:
    """The highest mark of each role."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], Mark] = {}

    def __iter__(self) -> Iterator[Mark]:
        return iter(self._marks.values())

    def rise(self, mark: Mark) -> bool:
        """Take a mark over if it is higher, or names the digest of the same version anew."""
        held = self._marks.get((mark.repository, mark.role))
        if held is not None:
            if (mark.epoch, mark.version) < (held.epoch, held.version):
                return False
            same = (mark.epoch, mark.version) == (held.epoch, held.version)
            if same and mark.digest in ("", held.digest):
                return False
        self._marks[mark.repository, mark.role] = mark
        return True
