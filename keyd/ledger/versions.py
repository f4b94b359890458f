"""Writing reservations, signatures and versions: where no version may ever get two payloads."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypedDict

from keyd.domain.audit import Event
from keyd.domain.keys import Key
from keyd.domain.records import (
    Repository,
    Reservation,
    ReservationState,
    Role,
    StoredSignature,
    VersionRecord,
)
from keyd.errors import AlreadyExists, Equivocation, PolicyViolation, StateCorrupt
from keyd.ledger import codec
from keyd.ledger.codec import time_text
from keyd.ledger.deferred import VERSIONS, Deferred
from keyd.ledger.log import PendingLog
from keyd.ledger.marks import Mark
from keyd.ledger.view import SqliteView

# Raises the mark of a role, or makes the role, unless the version was used or lost already. No
# row changed: look closer.
_RAISE_MARK = """
INSERT INTO roles (repository, name, epoch, high_water, trusted_version, trusted_digest, revision)
SELECT :repository, :role, :epoch, :version, 0, '', 1
WHERE NOT EXISTS (SELECT 1 FROM lost_versions WHERE repository = :repository AND role = :role
    AND epoch = :epoch AND last >= :version)
ON CONFLICT (repository, name) DO UPDATE
SET high_water = excluded.high_water, revision = revision + 1
WHERE epoch = excluded.epoch AND high_water < excluded.high_water
"""
_STANDING = """
SELECT
    (SELECT epoch FROM roles WHERE repository = :repository AND name = :role),
    (SELECT digest FROM reservations WHERE repository = :repository AND role = :role
        AND epoch = :epoch AND version = :version AND state <> 'VOIDED'),
    (SELECT digest FROM versions WHERE repository = :repository AND role = :role
        AND epoch = :epoch AND version = :version),
    EXISTS (SELECT 1 FROM reservations WHERE repository = :repository AND role = :role
        AND epoch = :epoch AND version = :version AND state = 'VOIDED'),
    (SELECT digest FROM lost_versions WHERE repository = :repository AND role = :role
        AND epoch = :epoch AND last = :version)
"""
# A role that is missing because it was lost starts at what was lost.
_FIND_ROLE_AGAIN = """
INSERT INTO roles (repository, name, epoch, high_water, trusted_version, trusted_digest, revision)
SELECT repository, role, epoch, max(last), 0, '', 1 FROM lost_versions
WHERE repository = :repository AND role = :role AND epoch = :epoch
"""
_ADVANCE = """
UPDATE reservations SET state = :state WHERE repository = :repository AND role = :role
AND epoch = :epoch AND version = :version AND digest = :digest AND state <> 'VOIDED'
"""
_ADD_SIGNATURE = """
INSERT INTO signatures SELECT id, :fingerprint, :key, :signature, :leaf, :made_at
FROM reservations WHERE repository = :repository AND role = :role
AND epoch = :epoch AND version = :version AND digest = :digest AND state <> 'VOIDED'
ON CONFLICT DO NOTHING
"""


class _About(TypedDict):
    repository: str
    role: str
    epoch: int
    version: int


class _Standing(NamedTuple):
    epoch: int | None
    reserved: str | None
    recorded: str | None
    voided: int
    lost: str | None


class Point(NamedTuple):
    """How many leaves, marks and deferred rows a transaction had."""

    leaves: int
    marks: int
    rows: int


class VersionWriting(SqliteView):
    """The part of a transaction that binds versions; `marks` collects the marks it raises."""

    def __init__(self, connection: sqlite3.Connection, log: PendingLog) -> None:
        super().__init__(connection, log)
        self._connection = connection
        self._pending = log
        self._deferred = Deferred(connection)
        self._roles: dict[tuple[str, str], Role | None] = {}
        self._keys: dict[str, Key | None] = {}
        # Reservations whose state was changed, with role and version: they hold what they name.
        self._advanced: set[tuple[object, ...]] = set()
        self.marks: list[Mark] = []

    def point(self) -> Point:
        """Where a piece begins, for `back_to`."""
        return Point(self._pending.size(), len(self.marks), self._deferred.size())

    def back_to(self, point: Point) -> None:
        """Forget what a piece left outside SQLite, which rolled the rest back."""
        self._pending.truncate(point.leaves)
        del self.marks[point.marks :]
        self._deferred.truncate(point.rows)
        self._roles.clear()
        self._keys.clear()
        self._advanced.clear()

    def key(self, name: str) -> Key | None:
        """As `role`: one key signs most of a group."""
        if name not in self._keys:
            self._keys[name] = super().key(name)
        return self._keys[name]

    def role(self, repository: str, role: str) -> Role | None:
        """Every piece of a group looks at the same few delegators: each is read once."""
        named = (repository, role)
        if named not in self._roles:
            self._roles[named] = super().role(repository, role)
        return self._roles[named]

    def repository(self, name: str) -> Repository | None:
        found = super().repository(name)
        if found is None or not self._deferred.has_changed(name):
            return found
        return replace(found, revision=found.revision + 1)

    def versions(
        self, repository: str, wanted: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], VersionRecord]:
        self._deferred.write(VERSIONS)
        return super().versions(repository, wanted)

    def put_reservation(self, reservation: Reservation, payload: bytes) -> None:
        """Insert, or update the state; a new one raises the role's mark, and both revisions.

        A version to be signed here must be above the mark, unless it was imported with the same
        payload or its reservation was voided. One that a METADATA_IMPORTED leaf announces was
        signed elsewhere and may be older.

        Raises: Equivocation (VERSION_ALREADY_SIGNED_DIFFERENTLY), PolicyViolation
        (VERSION_NOT_INCREASING), StateCorrupt (LEDGER_INVARIANT) for a payload, epoch or leaf that
        does not belong to it.
        """
        known = {
            **_named(reservation),
            "digest": reservation.digest,
            "state": reservation.state.value,
        }
        if reservation.state is not ReservationState.RESERVED and self._changes(_ADVANCE, known):
            self._advanced.add(_bound(reservation))
            return
        standing = self._raise_mark(reservation)
        if standing is not None and standing.reserved:
            self._execute(_ADVANCE, known)
            return
        event = self._check_leaf(reservation.leaf, reservation)
        if standing is not None and event is not Event.METADATA_IMPORTED:
            _check_repeatable(reservation, standing)
        self._put_payload(reservation.digest, payload)
        self._insert_reservation(reservation)
        self._deferred.changed(reservation.repository)

    def _raise_mark(self, by: Reservation | VersionRecord) -> _Standing | None:
        """Raise the role's mark to this version; if it was used already, tell what is recorded.

        None also when this transaction advanced the reservation of the same bytes.

        Raises: as `_standing`.
        """
        about = _named(by)
        # Also for the mark's own version: after a void it is bound to another payload.
        self.marks.append(Mark(by.repository, by.role, by.epoch, by.version, by.digest))
        known = self.role(by.repository, by.role)
        if known is not None and known.epoch == by.epoch and known.high_water >= by.version:
            return None if _bound(by) in self._advanced else self._standing(by)
        self._roles.pop((by.repository, by.role), None)
        if self._changes(_RAISE_MARK, about):
            return None
        standing = self._standing(by)
        if standing.epoch is None:
            self._execute(_FIND_ROLE_AGAIN, about)
        return standing

    def _changes(self, sql: str, values: Mapping[str, object]) -> bool:
        return self._execute(sql, values).rowcount > 0

    def _insert_reservation(self, reservation: Reservation) -> None:
        self._execute(
            "INSERT INTO reservations (repository, role, epoch, version, digest, required, state, "
            "leaf, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                reservation.repository,
                reservation.role,
                reservation.epoch,
                reservation.version,
                reservation.digest,
                codec.key_sets_text(reservation.required),
                reservation.state.value,
                reservation.leaf,
                time_text(reservation.created_at),
            ),
        )

    def _standing(self, by: Reservation | VersionRecord) -> _Standing:
        """What is recorded of a version and its role.

        Raises: Equivocation when the version is bound to another payload, StateCorrupt when the
        role is in another epoch.
        """
        self._deferred.write(VERSIONS)
        standing = _Standing(*self._execute(_STANDING, _named(by)).fetchone())
        for bound in (standing.reserved, standing.recorded, standing.lost):
            if bound and by.digest and bound != by.digest:
                raise Equivocation(
                    "VERSION_ALREADY_SIGNED_DIFFERENTLY",
                    f"version {by.version} of {by.repository}/{by.role} is bound to another "
                    "payload",
                )
        if standing.epoch not in (None, by.epoch):
            raise _invariant(f"{by.repository}/{by.role} is in epoch {standing.epoch}")
        return standing

    def _check_leaf(self, leaf: int, reservation: Reservation) -> Event:
        """The log entry that announces a record must name what it is about; return its event."""
        entry = self._pending.entry(leaf)
        expected = {**_named(reservation), "payload_sha256": reservation.digest}
        if entry is None or any(entry.fields.get(n) != v for n, v in expected.items()):
            raise _invariant(
                f"the log entry {leaf} does not announce version {reservation.version} of "
                f"{reservation.repository}/{reservation.role}"
            )
        return entry.event

    def _put_payload(self, digest: str, payload: bytes) -> None:
        if hashlib.sha256(payload).hexdigest() != digest:
            raise _invariant(f"the payload's digest is not {digest}")
        self._execute(
            "INSERT INTO payloads VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, payload)
        )

    def put_signature(self, reservation: Reservation, signature: StoredSignature) -> None:
        """Record a verified signature for ever.

        Raises: AlreadyExists (SIGNATURE_RECORDED) when this key's is there, StateCorrupt
        (LEDGER_INVARIANT) without its reservation or for a leaf that is not about it.
        """
        self._check_leaf(signature.leaf, reservation)
        added = self._changes(
            _ADD_SIGNATURE,
            {
                **_named(reservation),
                "digest": reservation.digest,
                "fingerprint": signature.fingerprint,
                "key": signature.key,
                "signature": signature.signature,
                "leaf": signature.leaf,
                "made_at": time_text(signature.made_at),
            },
        )
        if added:
            return
        if self._standing(reservation).reserved:
            raise AlreadyExists("SIGNATURE_RECORDED", "this key's signature is recorded already")
        raise _invariant(
            f"version {reservation.version} of {reservation.repository}/{reservation.role} is not "
            "reserved"
        )

    def put_version(self, record: VersionRecord) -> None:
        """Insert, or add to what is known; raises the role's high-water mark.

        Raises: Equivocation when the version is bound to another payload, StateCorrupt
        (LEDGER_INVARIANT) when the role is in another epoch.
        """
        self._raise_mark(record)
        file = record.file
        self._deferred.put(
            VERSIONS,
            (
                record.repository,
                record.role,
                record.epoch,
                record.version,
                record.digest,
                record.accepted,
                record.imported,
                None if file is None else file.length,
                None if file is None else codec.hashes_text(file.hashes),
            ),
        )


def _check_repeatable(reservation: Reservation, standing: _Standing) -> None:
    """A version at or below the mark can be signed if it is known by this payload, or voided."""
    if not standing.recorded and not standing.voided:
        raise PolicyViolation(
            "VERSION_NOT_INCREASING",
            f"version {reservation.version} of {reservation.repository}/{reservation.role} is "
            "not above the highest one used",
        )


def _named(about: Reservation | VersionRecord) -> _About:
    return {
        "repository": about.repository,
        "role": about.role,
        "epoch": about.epoch,
        "version": about.version,
    }


def _bound(about: Reservation | VersionRecord) -> tuple[object, ...]:
    return about.repository, about.role, about.epoch, about.version, about.digest


def _invariant(message: str) -> StateCorrupt:
    return StateCorrupt("LEDGER_INVARIANT", message)
