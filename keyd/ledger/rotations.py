"""Rotations and their files: statements, and rows to records and back."""

from __future__ import annotations

from keyd.domain.records_rotation import Rotation, RotationFile, RotationState, SignedVersion
from keyd.ledger.codec import Row, time_of, time_text

ROTATION = (
    "SELECT name, repository, kind, plan, plan_digest, creator, grace_s, leaf, created_at, state, "
    "published_at FROM rotations"
)
ROTATION_NAMED = f"{ROTATION} WHERE name = ?"
OPEN_ROTATION = f"{ROTATION} WHERE repository = ? AND state IN ('RUNNING', 'READY')"
ROTATIONS_OF = f"{ROTATION} WHERE repository = ? ORDER BY leaf"
RETIRING = f"{ROTATION} WHERE state = 'RETIRING' ORDER BY leaf"
_FILE = (
    "SELECT rotation, step, repository, role, epoch, version, digest, leaf, content "
    "FROM rotation_files WHERE rotation = ?"
)
FILES_OF = f"{_FILE} ORDER BY step"
FILE_OF = f"{_FILE} AND step = ?"
SIGNED_BY = (
    "SELECT s.fingerprint, r.repository, r.role, r.epoch, r.version, r.digest, "
    "r.state = 'ACCEPTED', s.leaf FROM signatures AS s "
    "JOIN reservations AS r ON r.id = s.reservation WHERE s.fingerprint = ? ORDER BY s.leaf DESC"
)
PUT_ROTATION = (
    "INSERT INTO rotations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) "
    "DO UPDATE SET state = excluded.state, published_at = excluded.published_at"
)
PUT_FILE = (
    "INSERT INTO rotation_files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (rotation, step) "
    "DO UPDATE SET epoch = excluded.epoch, version = excluded.version, digest = excluded.digest, "
    "content = excluded.content, leaf = excluded.leaf"
)


def rotation_of(row: Row) -> Rotation:
    """A row in the order of `ROTATION`."""
    return Rotation(
        name=row[0],
        repository=row[1],
        kind=row[2],
        plan=row[3],
        plan_digest=row[4],
        creator=row[5],
        grace_s=row[6],
        leaf=row[7],
        created_at=time_of(row[8]),
        state=RotationState(row[9]),
        published_at=None if row[10] is None else time_of(row[10]),
    )


def rotation_row(rotation: Rotation) -> Row:
    """The columns of the table `rotations`."""
    published = rotation.published_at
    return (
        rotation.name,
        rotation.repository,
        rotation.kind,
        rotation.plan,
        rotation.plan_digest,
        rotation.creator,
        rotation.grace_s,
        rotation.leaf,
        time_text(rotation.created_at),
        rotation.state.value,
        None if published is None else time_text(published),
    )


def signed_of(row: Row) -> SignedVersion:
    """A row in the order of `SIGNED_BY`."""
    return SignedVersion(
        fingerprint=row[0],
        repository=row[1],
        role=row[2],
        epoch=row[3],
        version=row[4],
        digest=row[5],
        accepted=bool(row[6]),
        leaf=row[7],
    )


def file_of(row: Row) -> RotationFile:
    """A row in the order of `FILES_OF`."""
    return RotationFile(*row)


def file_row(file: RotationFile) -> Row:
    """The columns of the table `rotation_files`."""
    return (
        file.rotation,
        file.step,
        file.repository,
        file.role,
        file.epoch,
        file.version,
        file.digest,
        file.content,
        file.leaf,
    )
