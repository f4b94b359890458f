"""Verification: silent about what honest use leaves behind, and finds every edit."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.domain.audit import Checkpoint
from keyd.domain.checkpoint import LogKey, signed, text_of
from keyd.domain.merkle import Frontier, leaf_hash
from keyd.errors import KeydError, NotFound, StateCorrupt
from keyd.ledger.codec import key_sets_of
from keyd.ledger.verification.report import MAX_FLAWS, Report
from keyd.ledger.verification.verify import verify_ledger
from tests.ledgers import Home, der, furnished, past_triggers, reserve
from tests.tally import Promise, tallied
from tests.used_ledger import use

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


@dataclass(frozen=True)
class Used:
    """A used ledger and its log key."""

    base: Path
    key: LogKey


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    base = tmp_path_factory.mktemp("used")
    return Used(base, use(base))


@pytest.fixture
def home(used: Used, tmp_path: Path) -> Home:
    """A copy that a test may spoil."""
    for name in ("ledger", "anchor"):
        shutil.copytree(used.base / name, tmp_path / name)
        (tmp_path / name).chmod(0o700)
    return Home(tmp_path)


def verify(home: Home, key: LogKey | None = None, *, anchored: bool = True) -> Report:
    return verify_ledger(
        home.state,
        anchor=home.anchor if anchored else None,
        log_keys=[] if key is None else [key],
    )


def tamper(home: Home, change: Callable[[sqlite3.Connection], object]) -> None:
    with past_triggers(home.database) as connection:
        change(connection)


# --- honest ledgers ------------------------------------------------------------------------------


def test_honest_use_is_sound(home: Home, used: Used) -> None:
    for report in (verify(home, used.key), verify(home)):
        assert report.flaws == []
        assert report.sound
        assert report.log_size > 80
        assert report.signatures > 20
        assert report.checkpoints == 2
        assert report.open_intents == 0
        assert report.origin == used.key.name


def test_a_running_ledger_can_be_verified(home: Home) -> None:
    ledger = home.open()
    assert verify(home).sound
    ledger.close()


def test_an_open_intent_is_no_flaw(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    ledger.transact(reserve(1))
    report = verify(Home(tmp_path))
    ledger.close()
    assert report.open_intents == 1
    assert {flaw.what for flaw in report.flaws} <= {
        "root:1 does not list the keys it was judged by",
        "it is ACTIVE, and its root says otherwise",
        "only a repository without trusted root has an intended one",
        "no entry registered it",
        "the entry that registered it differs in token, scheme, cka_id",
    }


def test_progress_is_told(home: Home) -> None:
    told: list[tuple[int, int]] = []
    verify_ledger(home.state, progress=lambda done, total: told.append((done, total)))
    assert told[0][0] == 0
    assert told[0][1] > 80


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        verify_ledger(tmp_path)


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


def test_every_covered_column_is_watched(home: Home) -> None:
    """Each of them at least twice."""
    check_edits(home, 200, seed=7)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_edits_are_found(home: Home, part: int) -> None:
    check_edits(home, 250, seed=11 + part)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("DROP TRIGGER leaves_stay", "leaves_stay"),
        ("DROP INDEX one_payload_per_version", "one_payload_per_version"),
        ("CREATE INDEX more ON leaves (hash)", "more"),
        ("CREATE TRIGGER more AFTER INSERT ON leaves BEGIN DELETE FROM requests; END", "more"),
        ("ALTER TABLE quarantines ADD COLUMN more TEXT", "quarantines"),
    ],
)
def test_another_schema_is_named_and_not_opened(home: Home, change: str, named: str) -> None:
    with closing(sqlite3.connect(home.database, isolation_level=None)) as connection:
        connection.execute(change)
    assert f"schema, {named}" in {flaw.where for flaw in verify(home).flaws}
    with pytest.raises(StateCorrupt, match=named):
        home.open()


def test_another_key_id_for_the_same_key_is_found(home: Home) -> None:
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

    tamper(home, rename)
    assert {flaw.where for flaw in verify(home).flaws} == {"repository later"}


# --- cuts, swaps, rewrites (T12) ------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_removed_row_is_found(home: Home, table: str) -> None:
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
        tamper(home, remove)
        tally.injected()
        # A checkpoint less is nothing that anybody could miss: others hold copies.
        assert verify(home).sound == (table == "checkpoints")


@pytest.mark.parametrize("column", ["data", "data = ?, hash"])
def test_swapped_entries_are_found(home: Home, column: str) -> None:
    def swap(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT data, hash FROM leaves WHERE position IN (20, 21)")
        (first, second) = rows.fetchall()
        values = (first[:1], second[:1]) if column == "data" else (first, second)
        for position, row in ((20, values[1]), (21, values[0])):
            connection.execute(
                f"UPDATE leaves SET {column} = ? WHERE position = ?", [*row, position]
            )

    with tallied(Promise.LOG_TELLS, "two entries swapped") as tally:
        tamper(home, swap)
        tally.injected()
        assert not verify(home, anchored=False).sound


def rebuild(connection: sqlite3.Connection) -> bytes:
    """Hash everything anew, as somebody would who edited entries; return the root."""
    frontier = Frontier()
    nodes: list[bytes] = []
    for position, data in connection.execute("SELECT position, data FROM leaves").fetchall():
        hashed = leaf_hash(data)
        connection.execute("UPDATE leaves SET hash = ? WHERE position = ?", (hashed, position))
        nodes += frontier.append(hashed)
    connection.execute("DELETE FROM nodes")
    connection.executemany("INSERT INTO nodes VALUES (?, ?)", list(enumerate(nodes)))
    return frontier.root()


def forge(connection: sqlite3.Connection) -> bytes:
    """Say that another principal asked, in an entry that no record repeats."""
    connection.execute(
        'UPDATE leaves SET data = CAST(replace(CAST(data AS TEXT), \'"principal":"\', '
        '\'"principal":"not-\') AS BLOB) WHERE position = 30'
    )
    return rebuild(connection)


def test_an_edited_entry_with_all_hashes_made_anew_is_found_by_the_checkpoints(home: Home) -> None:
    with tallied(Promise.LOG_TELLS, "the log rewritten from an edited entry on") as tally:
        tamper(home, forge)
        tally.injected()
        places = {flaw.where for flaw in verify(home, anchored=False).flaws}
        assert len([place for place in places if place.startswith("checkpoint")]) == 2


def test_a_rewrite_signed_by_another_log_key_is_found_by_who_knows_the_key(
    home: Home, used: Used
) -> None:
    private = Ed25519PrivateKey.generate()

    def rewrite(connection: sqlite3.Connection) -> None:
        """Begin the history of checkpoints anew, under a key of one's own."""
        root = forge(connection)
        (size,) = connection.execute("SELECT count(*) FROM leaves").fetchone()
        head = Checkpoint(used.key.name, size, root)
        key = LogKey(used.key.name, der(private))
        note = signed(head, key, private.sign(text_of(head))).note
        connection.execute("DELETE FROM checkpoints")
        connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (size, root, note))

    tamper(home, rewrite)
    assert not verify(home, used.key, anchored=False).sound
    assert not verify(home).sound


def test_a_rewrite_without_checkpoints_is_found_by_the_anchor_alone(home: Home) -> None:
    def rewrite(connection: sqlite3.Connection) -> None:
        forge(connection)
        connection.execute("DELETE FROM checkpoints")

    tamper(home, rewrite)
    assert verify(home, anchored=False).sound
    assert {flaw.where for flaw in verify(home).flaws} == {"anchor"}


@pytest.mark.parametrize("cut", [1, 2, 5, 40])
def test_a_cut_tail_is_found(home: Home, cut: int) -> None:
    def cut_off(connection: sqlite3.Connection) -> None:
        (size,) = connection.execute("SELECT count(*) FROM leaves").fetchone()
        connection.execute("DELETE FROM leaves WHERE position >= ?", (size - cut,))
        for table in ("reservations", "signatures", "intents", "opaque_signatures"):
            connection.execute(f"DELETE FROM {table} WHERE leaf >= ?", (size - cut,))
        connection.execute("DELETE FROM checkpoints WHERE size > ?", (size - cut,))
        rebuild(connection)

    with tallied(Promise.LOG_TELLS, "the log's tail cut off") as tally:
        tamper(home, cut_off)
        tally.injected()
        assert "anchor" in {flaw.where for flaw in verify(home).flaws}


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


def test_flipped_bytes_are_found(home: Home) -> None:
    check_flips(home, 60, seed=3)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_flipped_bytes_are_found(home: Home, part: int) -> None:
    check_flips(home, 250, seed=4 + 100 * part)


def test_findings_are_bounded(home: Home) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE leaves SET data = CAST('x' || position AS BLOB)")
        connection.executemany(
            "INSERT INTO nodes VALUES (?, ?)", [(n, bytes(32)) for n in range(10_000, 10_500)]
        )

    tamper(home, spoil)
    report = verify(home)
    assert report.flaw_count > 200
    assert len(report.flaws) == min(report.flaw_count, MAX_FLAWS)
