"""Reading rotations through one connection: a part of the `View` port."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from keyd.domain.records_rotation import Rotation, RotationFile, SignedVersion
from keyd.ledger import rotations
from keyd.ledger.codec import Row, decode
from keyd.ledger.log import PendingLog, StoredLog, ended

T = TypeVar("T")


class RotationReading:
    """The part of a view that is about rotations, and how every part of it reads."""

    def __init__(self, connection: sqlite3.Connection, log: StoredLog | PendingLog) -> None:
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute
        self._log = log

    def end(self) -> None:
        """Make every later read an error: what it would see is no longer one moment."""
        self._execute = ended
        self._log.end()

    def _one(self, make: Callable[[Row], T], sql: str, *values: object) -> T | None:
        row = self._execute(sql, values).fetchone()
        return None if row is None else decode(make, row)

    def _all(self, make: Callable[[Row], T], sql: str, *values: object) -> tuple[T, ...]:
        return tuple(decode(make, row) for row in self._execute(sql, values).fetchall())

    def accepted_before(
        self, repository: str, role: str, epoch: int, version: int
    ) -> tuple[int, int] | None:
        row = self._execute(
            "SELECT epoch, version FROM versions WHERE repository = ? AND role = ? AND accepted "
            "AND (epoch, version) < (?, ?) ORDER BY epoch DESC, version DESC LIMIT 1",
            (repository, role, epoch, version),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def signed_by(self, fingerprint: str) -> tuple[SignedVersion, ...]:
        return self._all(rotations.signed_of, rotations.SIGNED_BY, fingerprint)

    def rotation(self, name: str) -> Rotation | None:
        return self._one(rotations.rotation_of, rotations.ROTATION_NAMED, name)

    def open_rotation(self, repository: str) -> Rotation | None:
        return self._one(rotations.rotation_of, rotations.OPEN_ROTATION, repository)

    def rotations(self, repository: str) -> tuple[Rotation, ...]:
        return self._all(rotations.rotation_of, rotations.ROTATIONS_OF, repository)

    def all_rotations(self) -> tuple[Rotation, ...]:
        return self._all(rotations.rotation_of, rotations.ROTATION)

    def retiring_rotations(self) -> tuple[Rotation, ...]:
        return self._all(rotations.rotation_of, rotations.RETIRING)

    def rotation_files(self, rotation: str) -> tuple[RotationFile, ...]:
        return self._all(rotations.file_of, rotations.FILES_OF, rotation)

    def rotation_file(self, rotation: str, step: int) -> RotationFile | None:
        return self._one(rotations.file_of, rotations.FILE_OF, rotation, step)
