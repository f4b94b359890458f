"""What the writing connection knows without asking SQLite: nobody else writes these rows.

It lives as long as the connection, and ends with it after every failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from keyd.domain.keys import Key
from keyd.domain.records import Reservation, Role

K = TypeVar("K")
V = TypeVar("V")

# Records kept between groups, of each kind.
_KEPT = 1024
_ABSENT = object()


class Held(NamedTuple):
    """A reservation in force, its row's id, and whose signatures it has (None: not looked up)."""

    number: int
    record: Reservation
    signers: frozenset[str] | None


@dataclass
class Known:
    """Records by what names them; None stands for one that does not exist."""

    roles: dict[tuple[str, str], Role | None] = field(default_factory=dict)
    reservations: dict[tuple[str, str, int, int], Held | None] = field(default_factory=dict)
    keys: dict[str, Key | None] = field(default_factory=dict)
    # The roles of a repository whose accepted metadata delegates.
    delegating: dict[str, frozenset[str]] = field(default_factory=dict)
    # The highest lost version by (repository, role, epoch); None: not read yet.
    lost: dict[tuple[str, str, int], int] | None = None
    # The id of the newest reservation; ids of reservations that were undone are not used again.
    newest_number: int | None = None
    _undo: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)

    def put(self, records: dict[K, V], name: K, value: V) -> None:
        """Know a record as the running piece leaves it."""
        self._undo.append((records, name, records.get(name, _ABSENT)))
        records[name] = value

    def keep(self) -> None:
        """The piece ended well."""
        self._undo.clear()

    def undo(self) -> None:
        """The piece failed: know what was known when it began."""
        for records, name, before in reversed(self._undo):
            if before is _ABSENT:
                records.pop(name, None)
            else:
                records[name] = before
        self._undo.clear()
        self.lost = None

    def trim(self) -> None:
        """Between groups, when SQLite has everything: forget what became too much."""
        for records in (self.roles, self.reservations, self.keys, self.delegating):
            if len(records) > _KEPT:
                records.clear()
