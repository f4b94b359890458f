"""Writing reservations, signatures and versions: where no version may ever get two payloads.

Rows are staged (`keyd.ledger.staging`): what a piece may do is decided by what this connection
knows of the ledger (`keyd.ledger.known`); SQLite's constraints have the last word at its end.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypedDict

from keyd.domain.audit import Event, Fields
from keyd.domain.keys import Key
from keyd.domain.records import (
    Repository,
    Reservation,
    ReservationState,
    Role,
    StoredSignature,
    VersionRecord,
    altered,
)
from keyd.errors import AlreadyExists, Equivocation, PolicyViolation, StateCorrupt
from keyd.ledger import codec
from keyd.ledger.known import Held, Known
from keyd.ledger.log import PendingLog
from keyd.ledger.marks import Mark
from keyd.ledger.staging import PAYLOADS, RESERVATIONS, ROLES, SIGNATURES, STATES, VERSIONS, Staging
from keyd.ledger.view import SqliteView

_HELD = (
    "SELECT repository, role, epoch, version, digest, required, state, leaf, created_at, id "
    "FROM reservations WHERE repository = ? AND role = ? AND epoch = ? AND version = ? "
    "AND state <> 'VOIDED'"
)
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
_LOST = "SELECT repository, role, epoch, max(last) FROM lost_versions GROUP BY 1, 2, 3"
_ADD_PAYLOAD = "INSERT INTO payloads VALUES (?, ?) ON CONFLICT DO NOTHING"
# SQLite copies what it is given: larger payloads are written one by one.
_STAGED_PAYLOAD_BYTES = 64 << 10
# How far a reservation has come; it does not go back.
_PROGRESS = {
    ReservationState.RESERVED: 0,
    ReservationState.SIGNED: 1,
    ReservationState.ACCEPTED: 2,
    ReservationState.VOIDED: 3,
}


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


class VersionWriting(SqliteView):
    """The part of a transaction that binds versions; `marks` collects the marks it raises."""

    def __init__(
        self, connection: sqlite3.Connection, log: PendingLog, known: Known | None = None
    ) -> None:
        super().__init__(connection, log)
        self._connection = connection
        self._pending = log
        self._known = Known() if known is None else known
        self._staging = Staging(connection)
        # Repositories whose revision rises, by one however often they change in this transaction.
        self._changed: set[str] = set()
        self._begin = (0, 0)
        self.marks: list[Mark] = []

    # --- pieces -------------------------------------------------------------------------------

    def begin_piece(self) -> None:
        """What follows can be undone by itself."""
        self._begin = self._pending.size(), len(self.marks)
        self._staging.begin()

    def keep_piece(self) -> None:
        """The piece ended well."""
        self._staging.keep()
        self._known.keep()

    def undo_piece(self) -> None:
        """Nothing of the piece stays; that a repository's revision rises in vain does no harm."""
        leaves, marks = self._begin
        self._staging.undo()
        self._known.undo()
        self._pending.truncate(leaves)
        del self.marks[marks:]

    def _change(self, sql: str, values: object = ()) -> None:
        """Run a statement that writes, so that the piece can be undone."""
        self._staging.protect()
        self._execute(sql, values)

    # --- what the group reads of itself -------------------------------------------------------

    def key(self, name: str) -> Key | None:
        keys = self._known.keys
        if name not in keys:
            keys[name] = super().key(name)
        return keys[name]

    def role(self, repository: str, role: str) -> Role | None:
        roles, named = self._known.roles, (repository, role)
        if named not in roles:
            roles[named] = super().role(repository, role)
        return roles[named]

    def roles(self, repository: str) -> tuple[Role, ...]:
        self._staging.settle()
        return super().roles(repository)

    def repository(self, name: str) -> Repository | None:
        found = super().repository(name)
        if found is None or name not in self._changed:
            return found
        return replace(found, revision=found.revision + 1)

    def reservation(
        self, repository: str, role: str, epoch: int, version: int
    ) -> Reservation | None:
        held = self._held(repository, role, epoch, version)
        return None if held is None else held.record

    def newest_pending(
        self, repository: str, role: str, epoch: int, above: int
    ) -> Reservation | None:
        self._staging.settle()
        return super().newest_pending(repository, role, epoch, above)

    def signatures(self, reservation: Reservation) -> tuple[StoredSignature, ...]:
        self._staging.settle()
        return super().signatures(reservation)

    def payload(self, digest: str) -> bytes:
        self._staging.settle()
        return super().payload(digest)

    def versions(
        self, repository: str, wanted: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], VersionRecord]:
        self._staging.settle()
        return super().versions(repository, wanted)

    def _held(self, repository: str, role: str, epoch: int, version: int) -> Held | None:
        """The reservation in force. Above the mark there is none: it would have raised the mark."""
        records, named = self._known.reservations, (repository, role, epoch, version)
        if named in records:
            return records[named]
        known = self.role(repository, role)
        if known is None or (known.epoch == epoch and known.high_water < version):
            return None
        # What is staged is known, so SQLite has the rest.
        records[named] = self._one(_held_of, _HELD, *named)
        return records[named]

    # --- reservations -------------------------------------------------------------------------

    def put_reservation(self, reservation: Reservation, payload: bytes) -> None:
        """Insert, or update the state; a new one raises the role's mark, and both revisions.

        A version to be signed here must be above the mark, unless it was imported with the same
        payload or its reservation was voided. One that a METADATA_IMPORTED leaf announces was
        signed elsewhere and may be older.

        Raises: Equivocation (VERSION_ALREADY_SIGNED_DIFFERENTLY), PolicyViolation
        (VERSION_NOT_INCREASING), StateCorrupt (LEDGER_INVARIANT) for a payload, epoch or leaf that
        does not belong to it.
        """
        held = self._held(**_named(reservation))
        if held is not None and held.record.digest == reservation.digest:
            self._advance(held, reservation.state)
            return
        standing = self._raise_mark(reservation)
        event = self._check_leaf(reservation.leaf, reservation)
        if standing is not None and event is not Event.METADATA_IMPORTED:
            _check_repeatable(reservation, standing)
        self._put_payload(reservation.digest, payload)
        self._insert_reservation(reservation)
        self._changed.add(reservation.repository)

    def _advance(self, held: Held, state: ReservationState) -> None:
        if state is held.record.state:
            return
        if _PROGRESS[state] < _PROGRESS[held.record.state] or _is_final(held.record.state):
            raise invariant(f"a reservation does not go from {held.record.state} to {state}")
        self._staging.put(STATES, (state.value, held.number))
        now = held._replace(record=altered(held.record, state=state))
        self._hold(held.record, None if state is ReservationState.VOIDED else now)

    def _hold(self, about: Reservation, held: Held | None) -> None:
        named = about.repository, about.role, about.epoch, about.version
        self._known.put(self._known.reservations, named, held)

    def _raise_mark(self, by: Reservation | VersionRecord) -> _Standing | None:
        """Raise the role's mark to this version; if it was used already, tell what is recorded.

        None also when the reservation in force holds the same bytes.

        Raises: as `_standing`.
        """
        # Also for the mark's own version: after a void it is bound to another payload.
        self.marks.append(Mark(by.repository, by.role, by.epoch, by.version, by.digest))
        role = self.role(by.repository, by.role)
        lost = self._lost_mark(by.repository, by.role, by.epoch)
        if role is None:
            role = Role(by.repository, by.role, epoch=by.epoch, high_water=lost)
            if lost >= by.version:
                # A role that is missing because it was lost starts at what was lost.
                standing = self._standing(by)
                self._stage_role(role, lost)
                return standing
        if role.epoch == by.epoch and max(role.high_water, lost) < by.version:
            self._stage_role(role, by.version)
            return None
        held = self._held(**_named(by))
        if held is not None and held.record.digest == by.digest:
            return None
        return self._standing(by)

    def _stage_role(self, role: Role, high_water: int) -> None:
        """Write the role as it is from now on, its mark and its revision raised."""
        raised = altered(role, high_water=high_water, revision=role.revision + 1)
        self._staging.put(ROLES, codec.role_row(raised))
        self._known.put(self._known.roles, (role.repository, role.name), raised)

    def _lost_mark(self, repository: str, role: str, epoch: int) -> int:
        """The highest version that a repair took for used; 0 if there is none."""
        if self._known.lost is None:
            rows = self._execute(_LOST).fetchall()
            self._known.lost = {(row[0], row[1], row[2]): row[3] for row in rows}
        return self._known.lost.get((repository, role, epoch), 0)

    def _insert_reservation(self, reservation: Reservation) -> None:
        if self._known.newest_number is None:
            found = self._execute("SELECT coalesce(max(id), 0) FROM reservations").fetchone()
            self._known.newest_number = found[0]
        self._known.newest_number += 1
        number = self._known.newest_number
        self._staging.put(RESERVATIONS, (number, *codec.reservation_row(reservation)))
        self._hold(reservation, Held(number, reservation, frozenset()))

    def _standing(self, by: Reservation | VersionRecord) -> _Standing:
        """What is recorded of a version and its role.

        Raises: Equivocation when the version is bound to another payload, StateCorrupt when the
        role is in another epoch.
        """
        self._staging.settle()
        standing = _Standing(*self._execute(_STANDING, _named(by)).fetchone())
        for bound in (standing.reserved, standing.recorded, standing.lost):
            if bound and by.digest and bound != by.digest:
                raise Equivocation(
                    "VERSION_ALREADY_SIGNED_DIFFERENTLY",
                    f"version {by.version} of {by.repository}/{by.role} is bound to another "
                    "payload",
                )
        if standing.epoch not in (None, by.epoch):
            raise invariant(f"{by.repository}/{by.role} is in epoch {standing.epoch}")
        return standing

    def _check_leaf(self, leaf: int, reservation: Reservation) -> Event:
        """The log entry that announces a record must name what it is about; return its event."""
        entry = self._pending.entry(leaf)
        if entry is not None and _names(entry.fields, reservation):
            return entry.event
        raise invariant(
            f"the log entry {leaf} does not announce version {reservation.version} of "
            f"{reservation.repository}/{reservation.role}"
        )

    def _put_payload(self, digest: str, payload: bytes) -> None:
        if hashlib.sha256(payload).hexdigest() != digest:
            raise invariant(f"the payload's digest is not {digest}")
        if len(payload) > _STAGED_PAYLOAD_BYTES:
            self._change(_ADD_PAYLOAD, (digest, payload))
        else:
            self._staging.put(PAYLOADS, (digest, payload))

    def put_signature(self, reservation: Reservation, signature: StoredSignature) -> None:
        """Record a verified signature for ever.

        Raises: AlreadyExists (SIGNATURE_RECORDED) when this key's is there, StateCorrupt
        (LEDGER_INVARIANT) without its reservation or for a leaf that is not about it.
        """
        self._check_leaf(signature.leaf, reservation)
        held = self._held(**_named(reservation))
        if held is None or held.record.digest != reservation.digest:
            self._standing(reservation)
            raise invariant(
                f"version {reservation.version} of {reservation.repository}/{reservation.role} is "
                "not reserved"
            )
        signers = self._signers(held)
        if signature.fingerprint in signers:
            raise AlreadyExists("SIGNATURE_RECORDED", "this key's signature is recorded already")
        self._staging.put(SIGNATURES, (held.number, *codec.signature_row(signature)))
        self._hold(held.record, held._replace(signers=signers | {signature.fingerprint}))

    def _signers(self, held: Held) -> frozenset[str]:
        if held.signers is not None:
            return held.signers
        rows = self._execute(
            "SELECT fingerprint FROM signatures WHERE reservation = ?", (held.number,)
        )
        return frozenset(fingerprint for (fingerprint,) in rows.fetchall())

    def put_version(self, record: VersionRecord) -> None:
        """Insert, or add to what is known; raises the role's high-water mark.

        Raises: Equivocation when the version is bound to another payload, StateCorrupt
        (LEDGER_INVARIANT) when the role is in another epoch.
        """
        self._raise_mark(record)
        file = record.file
        self._staging.put(
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


def _names(fields: Fields, reservation: Reservation) -> bool:
    return (
        fields.get("payload_sha256") == reservation.digest
        and fields.get("repository") == reservation.repository
        and fields.get("role") == reservation.role
        and fields.get("epoch") == reservation.epoch
        and fields.get("version") == reservation.version
    )


def _held_of(row: codec.Row) -> Held:
    return Held(row[9], codec.reservation_of(row), None)


def _is_final(state: ReservationState) -> bool:
    return state in (ReservationState.ACCEPTED, ReservationState.VOIDED)


def invariant(message: str) -> StateCorrupt:
    """The error for a record that contradicts another."""
    return StateCorrupt("LEDGER_INVARIANT", message)
