"""The log for outsiders: plain files that anybody can hash, and no need to trust this ledger.

`entries.jsonl` has one line per entry, exactly its bytes: the leaf hash of a line (without its
newline) is SHA-256(0x00 || line). `checkpoint.txt` is the newest signed note; the entries end where
it ends. `keys.jsonl` has the registered public keys, `payloads.jsonl` the bytes that the entries
name by SHA-256. Base64 is the standard alphabet with padding.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from keyd.domain.audit import Checkpoint
from keyd.errors import AlreadyExists, NotFound, PolicyViolation
from keyd.ledger.database import DATABASE, connect_reader, translate
from keyd.ledger.directory import check_directory, check_file, create_file, flush_directory
from keyd.ledger.log import StoredLog
from keyd.ledger.verification.report import Progress, silent
from keyd.ledger.view import SqliteView

ENTRIES = "entries.jsonl"
CHECKPOINT = "checkpoint.txt"
KEYS = "keys.jsonl"
PAYLOADS = "payloads.jsonl"
_PROGRESS_EVERY = 10_000


@dataclass(frozen=True)
class Exported:
    """What was written: entries up to the checkpoint, keys, payloads (0 if left out)."""

    checkpoint: Checkpoint
    entries: int
    keys: int
    payloads: int


def export_log(
    directory: Path, target: Path, *, payloads: bool = True, progress: Progress = silent
) -> Exported:
    """Write the log of the ledger in `directory` into the new directory `target` (mode 0700).

    One moment of the ledger; the daemon may run. Payloads may be metadata that is not published
    yet: leave them out for those who must not see it; then signatures cannot be verified.

    Raises: NotFound (LEDGER_MISSING), AlreadyExists (EXPORT_EXISTS), PolicyViolation
    (CHECKPOINT_MISSING), NotAllowed, StateCorrupt, OSError.
    """
    path = directory / DATABASE
    if not path.exists():
        raise NotFound("LEDGER_MISSING", f"there is no ledger in {directory}")
    check_directory(directory)
    check_file(path)
    try:
        with closing(connect_reader(path)) as connection:
            connection.execute("BEGIN")
            return _export(connection, target, payloads, progress)
    except sqlite3.Error as error:
        raise translate(error) from error


def _export(
    connection: sqlite3.Connection, target: Path, payloads: bool, progress: Progress
) -> Exported:
    view = SqliteView(connection, StoredLog(connection))
    checkpoint = view.checkpoint()
    if checkpoint is None:
        raise PolicyViolation(
            "CHECKPOINT_MISSING", "no checkpoint was ever signed; sign one: keyd audit checkpoint"
        )
    try:
        target.mkdir(mode=0o700)
    except FileExistsError as error:
        raise AlreadyExists("EXPORT_EXISTS", f"{target} is there already") from error
    entries = _write(target / ENTRIES, _entries(view, checkpoint.size, progress))
    keys = _write(target / KEYS, _keys(view))
    bodies = _write(target / PAYLOADS, _payloads(connection) if payloads else ())
    _write(target / CHECKPOINT, [checkpoint.note.encode().removesuffix(b"\n")])
    flush_directory(target)
    return Exported(checkpoint, entries, keys, bodies)


def _entries(view: SqliteView, size: int, progress: Progress) -> Iterable[bytes]:
    for leaf in view.leaves(0, size):
        yield leaf.data
        if leaf.index % _PROGRESS_EVERY == 0:
            progress(leaf.index, size)


def _keys(view: SqliteView) -> Iterable[bytes]:
    for key in view.keys():  # noqa: SIM118 - a view is no mapping
        described = {
            "name": key.name,
            "scheme": key.scheme.value,
            "sha256": key.fingerprint,
            "public": base64.b64encode(key.public_der).decode(),
        }
        yield json.dumps(described).encode()


def _payloads(connection: sqlite3.Connection) -> Iterable[bytes]:
    for digest, data in connection.execute("SELECT digest, data FROM payloads ORDER BY rowid"):
        described = {"sha256": digest, "payload": base64.b64encode(data).decode()}
        yield json.dumps(described).encode()


def _write(path: Path, lines: Iterable[bytes]) -> int:
    """Write a new file, line by line, and flush it; return how many lines it has."""
    count = 0
    with os.fdopen(create_file(path), "wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count
