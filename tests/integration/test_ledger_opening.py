"""Opening: two openers, other programs' files, newer and older schemas, damage."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyd.errors import BackendUnavailable, InvalidRequest, KeydError, StateCorrupt
from keyd.ledger import create, opening
from keyd.ledger.create import create_ledger
from keyd.ledger.database import connect_writer
from keyd.ledger.schema import check_version, migrate, migrations
from keyd.ledger.verification.verify import verify_ledger
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.ledgers import NOW, Home, furnished, past_triggers, reserve, sign
from tests.worlds import Author, active_author, open_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    ledger.close()
    return Home(tmp_path)


def change(home: Home, *statements: str) -> None:
    with closing(sqlite3.connect(home.database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# --- one opener ----------------------------------------------------------------------------------


def test_a_second_opener_is_refused(home: Home) -> None:
    ledger = home.open()
    with pytest.raises(BackendUnavailable, match="LEDGER_IN_USE"):
        home.open()
    ledger.close()
    home.open().close()


def test_a_second_process_is_refused(home: Home) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.ledgers import Home\n"
        "try: Home(Path(sys.argv[1])).open()\n"
        "except Exception as error: print(error.reason)\n"
    )
    ledger = home.open()
    done = subprocess.run(
        [sys.executable, "-c", program, str(home.base)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ledger.close()
    assert done.stdout == "LEDGER_IN_USE\n"


def test_two_copies_cannot_share_an_anchor(home: Home, tmp_path: Path) -> None:
    ledger = home.open()
    shutil.copytree(home.state, tmp_path / "copy")
    (tmp_path / "copy").chmod(0o700)
    with pytest.raises(BackendUnavailable, match="ANCHOR_IN_USE"):
        opening.open_ledger(tmp_path / "copy", anchor=home.anchor)
    sign(ledger, 2)
    ledger.close()
    behind = opening.open_ledger(tmp_path / "copy", anchor=home.anchor)
    assert (behind.refusal() or "").startswith("LEDGER_BEHIND_ANCHOR")
    behind.close()


def test_closing_twice_does_no_harm(home: Home) -> None:
    ledger = home.open()
    ledger.close()
    ledger.close()
    with pytest.raises(BackendUnavailable, match="LEDGER_CLOSED"):
        ledger.transact(reserve(2))


# --- what is no ledger of ours -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA application_id = 7", "LEDGER_FOREIGN"),
        ("PRAGMA application_id = 7; PRAGMA journal_mode = DELETE", "LEDGER_FOREIGN"),
        ("PRAGMA user_version = 0", "LEDGER_FOREIGN"),
        ("PRAGMA user_version = 99", "LEDGER_SCHEMA_NEWER"),
    ],
)
def test_other_files_are_refused_and_left_alone(home: Home, statement: str, reason: str) -> None:
    change(home, *statement.split(";"))
    before = home.database.read_bytes()
    with pytest.raises(StateCorrupt, match=reason):
        home.open()
    assert home.database.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 8192),
        lambda path: path.write_bytes(path.read_bytes()[:4096]),
        lambda path: os.truncate(path, path.stat().st_size // 2),
    ],
    ids=["empty", "other bytes", "first page only", "half"],
)
def test_damaged_files_are_refused(home: Home, damage: Callable[[Path], object]) -> None:
    damage(home.database)
    with pytest.raises(StateCorrupt) as caught:
        home.open()
    assert caught.value.reason in ("LEDGER_CORRUPT", "LEDGER_FOREIGN")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM leaves WHERE position = 3",
        "DELETE FROM nodes WHERE position > 2",
        "UPDATE leaves SET data = x'00' WHERE position = 5",
        "DELETE FROM identity",
    ],
)
def test_damage_near_the_end_of_the_log_is_seen_at_once(home: Home, statement: str) -> None:
    with past_triggers(home.database) as connection:
        connection.execute(statement)
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        home.open()


def test_a_refused_opening_gives_its_locks_back(home: Home) -> None:
    change(home, "PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(StateCorrupt, match="LEDGER_SCHEMA_NEWER"):
            home.open()
    change(home, f"PRAGMA user_version = {len(migrations())}")
    home.open().close()


def test_senseless_origins_make_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="LOG_ORIGIN_MALFORMED"):
        create_ledger(
            tmp_path / "ledger", origin="two words", development=True, clock=TestClock(NOW)
        )
    assert list(tmp_path.iterdir()) == []


# --- migrations ----------------------------------------------------------------------------------

LATER = "CREATE TABLE later (n INTEGER) STRICT; INSERT INTO later VALUES (42);"


def test_an_older_ledger_is_migrated_once_and_its_keyd_refuses_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(opening, "migrations", lambda: (*migrations(), LATER))
        for version in (2, 3):
            ledger = home.open()
            sign(ledger, version)
            ledger.close()
    with closing(sqlite3.connect(home.database)) as connection:
        assert connection.execute("SELECT n FROM later").fetchall() == [(42,)]
        newest = len(migrations()) + 1
        assert connection.execute("PRAGMA user_version").fetchone() == (newest,)
    with pytest.raises(StateCorrupt, match="LEDGER_SCHEMA_NEWER"):
        home.open()


def test_a_ledger_in_use_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrations copy rows: those of a ledger that signed before must still prove themselves."""
    tokens = FakeTokens(SoftwareToken("soft", TestClock()))
    with monkeypatch.context() as older:
        for module in (create, opening):
            older.setattr(module, "migrations", lambda: migrations()[:4])
        world = open_world(tmp_path, tokens=tokens)
        author = active_author(world)
        world.ledger.close()
    world = open_world(tmp_path, tokens=tokens)
    author = Author(world, "demo", author.keys)
    author.sign("timestamp", "timestamp", author.timestamp(2))
    world.ledger.close()
    home = Home(tmp_path)
    report = verify_ledger(home.state, anchor=home.anchor)
    assert report.sound, report.flaws


def test_a_migration_that_fails_changes_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (*migrations(), LATER, "CREATE TABLE leaves (n INTEGER);")
    monkeypatch.setattr(opening, "migrations", lambda: steps)
    with pytest.raises(KeydError):
        home.open()
    with closing(connect_writer(home.database)) as connection:
        assert check_version(connection, len(steps)) == len(steps) - 1
        assert connection.execute("SELECT n FROM later").fetchall() == [(42,)]


def test_the_schema_is_strict_and_complete(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as connection:
        migrate(connection, migrations(), 0)
        tables = connection.execute(
            "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' "
            "AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
    assert len(tables) == 27
    assert {strict for _, strict in tables} == {1}


def test_a_schema_that_is_no_text_is_named(home: Home) -> None:
    """SQLite quotes the damage in its message, which then is no UTF-8 either."""
    change(home, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = home.database.read_bytes()
    damaged = data.replace(b"CREATE TABLE leaves", b"CRE\x9cTE TABLE leaves")
    damaged = damaged.replace(b"tableleavesleaves", b"tablele\x9cvesleaves")
    assert damaged != data
    home.database.write_bytes(damaged)
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        home.open()
    assert not verify_ledger(home.state, anchor=home.anchor).sound
