"""Verification finds every edited value, removed row and flipped byte."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.errors import KeydError
from keyd.ledger.codec import key_sets_of
from tests.ledgers import Home
from tests.tally import Promise, tallied
from tests.used_ledger import tamper, verify

# What recomputation covers: every column of these tables, except those named in UNCOVERED.
TABLES = (
    "identity",
    "leaves",
    "nodes",
    "checkpoints",
    "keys",
    "repositories",
    "roles",
    "delegations",
    "payloads",
    "reservations",
    "signatures",
    "versions",
    "lost_versions",
    "opaque_signatures",
    "intents",
    "rotations",
    "rotation_files",
    "officers",
    "base_rule",
    "proposals",
    "approvals",
)
# Counters that nothing depends on, a row's place, rule levels (the log has their changes in words),
# lengths of imported files (the log has their hashes).
UNCOVERED = {
    ("repositories", "revision"),
    ("roles", "revision"),
    ("roles", "rules"),
    ("versions", "length"),
    ("versions", "hashes"),
}
ROW_NUMBERS = {("identity", "one"), ("base_rule", "one"), ("reservations", "id")}


# --- single edits (G2) ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """One value of one row, changed."""

    table: str
    column: str
    rowid: str
    before: object
    after: object


def covered_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return [
        (table, row[1])
        for table in TABLES
        for row in connection.execute(f"PRAGMA table_info({table})")
        if (table, row[1]) not in UNCOVERED | ROW_NUMBERS
    ]


def changed(value: object, chosen: random.Random) -> object:
    if value is None:
        return chosen.choice([b"\x01", "x"]) if chosen.random() < 0.5 else b"\x01"
    if isinstance(value, int):
        return max(0, value + chosen.choice([-1, 1, 7])) if value else 1
    if value == b"":
        return b"x"
    if isinstance(value, bytes):
        place = chosen.randrange(len(value))
        return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
    text = str(value)
    if not text:
        return "x"
    place = chosen.randrange(len(text))
    letter = chosen.choice("0123456789abcdef")
    return text[:place] + letter + text[place + 1 :]


def edit(connection: sqlite3.Connection, place: tuple[str, str], chosen: random.Random) -> Edit:
    """Change the column in some row, so that SQLite takes it."""
    table, column = place
    keys = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
    while True:
        columns = ", ".join([column, *keys])
        rows = connection.execute(f"SELECT {columns} FROM {table}").fetchall()
        before, *at = chosen.choice(rows)
        after = changed(before, chosen)
        if after == before:
            continue
        where = " AND ".join(f"{key} = ?" for key in keys)
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", [after, *at])
        except sqlite3.IntegrityError:
            continue
        return Edit(table, column, repr(at), before, after)


def edits_not_found(base: Home, count: int, seed: int) -> Iterator[Edit]:
    chosen = random.Random(seed)
    original = base.database.read_bytes()
    with closing(sqlite3.connect(base.database)) as connection:
        places = covered_columns(connection)
    for number in range(count):
        base.database.write_bytes(original)
        for part in ("-wal", "-shm"):
            base.database.with_name(f"ledger.db{part}").unlink(missing_ok=True)
        made: list[Edit] = []
        place = places[number % len(places)]
        tamper(base, lambda c, p=place, m=made: m.append(edit(c, p, chosen)))  # type: ignore[misc]
        if verify(base).sound:
            yield made[0]


def excused(missed: Edit) -> bool:
    """Accepted metadata activates keys without an entry: these states are not told apart."""
    if (missed.table, missed.column) != ("keys", "state"):
        return False
    return {missed.before, missed.after} <= {"ACTIVE", "PRE_ACTIVE"}


def check_edits(home: Home, count: int, seed: int) -> None:
    with tallied(Promise.LOG_TELLS, "a recorded value edited") as tally:
        tally.injected(count)
        assert [e for e in edits_not_found(home, count, seed) if not excused(e)] == []


def test_every_covered_column_is_watched(used_copy: Home) -> None:
    """Each of them at least twice."""
    check_edits(used_copy, 200, seed=7)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_edits_are_found(used_copy: Home, part: int) -> None:
    check_edits(used_copy, 250, seed=11 + part)


def test_another_key_id_for_the_same_key_is_found(used_copy: Home) -> None:
    """In the list that an administrator gave, and that nothing but its entry repeats."""

    def rename(connection: sqlite3.Connection) -> None:
        [(text,)] = connection.execute(
            "SELECT intended_root FROM repositories WHERE name = 'later'"
        ).fetchall()
        keyid = min(key_sets_of(text)[0].fingerprints)
        connection.execute(
            "UPDATE repositories SET intended_root = replace(intended_root, ?, ?)",
            (keyid, "0" * 64),
        )

    tamper(used_copy, rename)
    assert {flaw.where for flaw in verify(used_copy).flaws} == {"repository later"}


# --- removed rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_removed_row_is_found(used_copy: Home, table: str) -> None:
    def remove(connection: sqlite3.Connection) -> None:
        # The entry of an import does not tell who signed, beyond the threshold that was reached.
        rows = f"{table} WHERE key <> ''" if table == "signatures" else table
        (count,) = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
        keys = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
        names = ", ".join(keys)
        at = connection.execute(f"SELECT {names} FROM {rows} LIMIT 1 OFFSET {count // 2}")
        where = " AND ".join(f"{key} = ?" for key in keys)
        connection.execute(f"DELETE FROM {table} WHERE {where}", at.fetchone())

    with tallied(Promise.LOG_TELLS, "a row removed") as tally:
        tamper(used_copy, remove)
        tally.injected()
        # A checkpoint less is nothing that anybody could miss: others hold copies.
        assert verify(used_copy).sound == (table == "checkpoints")


# --- damage (B7) ---------------------------------------------------------------------------------


def content(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def flips_not_found(home: Home, count: int, seed: int) -> int:
    """Flip bytes one at a time; count those that change what is read and are not reported."""
    chosen = random.Random(seed)
    original = home.database.read_bytes()
    before = content(home.database)
    missed = 0
    for _ in range(count):
        place = chosen.randrange(len(original))
        flipped = original[place] ^ (1 << chosen.randrange(8))
        home.database.write_bytes(original[:place] + bytes([flipped]) + original[place + 1 :])
        for part in ("-wal", "-shm"):
            home.database.with_name(f"ledger.db{part}").unlink(missing_ok=True)
        try:
            if not verify(home).sound or covered(before) == covered(content(home.database)):
                continue
        except (KeydError, sqlite3.Error, UnicodeDecodeError):
            continue
        missed += 1
    return missed


def covered(dump: list[str]) -> list[str]:
    """The statements that insert into tables that are recomputed as a whole."""
    whole = ("leaves", "nodes", "checkpoints", "payloads", "intents", "delegations")
    return [line for line in dump if line.startswith(tuple(f'INSERT INTO "{t}"' for t in whole))]


def check_flips(home: Home, count: int, seed: int) -> None:
    with tallied(Promise.LOG_TELLS, "a bit of the ledger's file flipped") as tally:
        tally.injected(count)
        assert flips_not_found(home, count, seed) == 0


def test_flipped_bytes_are_found(used_copy: Home) -> None:
    check_flips(used_copy, 60, seed=3)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_flipped_bytes_are_found(used_copy: Home, part: int) -> None:
    check_flips(used_copy, 250, seed=4 + 100 * part)
