"""Numbered migrations; `PRAGMA user_version` is the number of the last one applied."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from importlib.resources import files

from keyd.errors import StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger.database import APPLICATION_ID


@cache
def migrations() -> tuple[str, ...]:
    """The SQL of every migration this program knows, in order."""
    folder = files("keyd.ledger") / "migrations"
    found = sorted((f.name, f.read_text("utf-8")) for f in folder.iterdir() if f.name[:1].isdigit())
    return tuple(sql for _, sql in found)


def check_version(connection: sqlite3.Connection, known: int) -> int:
    """The schema's version. Raises: StateCorrupt for other programs' files and newer schemas."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID or version < 1:
        raise StateCorrupt("LEDGER_FOREIGN", "this database is no ledger of keyd")
    if version > known:
        raise StateCorrupt(
            "LEDGER_SCHEMA_NEWER",
            f"a newer keyd wrote this ledger (schema {version}, this program knows {known}); "
            "run that release",
        )
    return version


def schema_objections(connection: sqlite3.Connection, steps: Sequence[str]) -> list[str]:
    """Tables, indexes and triggers that are not as `steps` make them, by name.

    Triggers and unique indexes hold promises of their own: a file without them is no ledger, though
    every row in it may be sound. Raises: sqlite3.Error, UnicodeDecodeError.
    """
    found, made = _objects(connection), _made_by(tuple(steps))
    return sorted({str(name) for _, name, *_ in found ^ made})


@cache
def _made_by(steps: tuple[str, ...]) -> frozenset[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in steps:
            connection.executescript(sql)
        return _objects(connection)


def _objects(connection: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def migrate(connection: sqlite3.Connection, steps: Sequence[str], done: int) -> None:
    """Apply the steps after the first `done`, each in a transaction of its own.

    Raises: sqlite3.Error; what was applied stays.
    """
    for number, sql in enumerate(steps[done:], start=done + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\n"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
            )
            failpoint(Failpoint.LEDGER_MIGRATION_OPEN)
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.rollback()
            raise
