"""Verification: silent about what honest use leaves behind, and finds cuts, swaps and rewrites."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.domain.audit import Checkpoint
from keyd.domain.checkpoint import LogKey, signed, text_of
from keyd.domain.merkle import Frontier, leaf_hash
from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.errors import NotFound, StateCorrupt
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.verification.report import MAX_FLAWS
from keyd.ledger.verification.verify import verify_ledger
from tests.ledgers import NOW, Home, der, furnished, reserve
from tests.tally import Promise, tallied
from tests.used_ledger import Used, tamper, verify

# --- honest ledgers ------------------------------------------------------------------------------


def test_honest_use_is_sound(used_copy: Home, used_ledger: Used) -> None:
    for report in (verify(used_copy, used_ledger.key), verify(used_copy)):
        assert report.flaws == []
        assert report.sound
        assert report.log_size > 80
        assert report.signatures > 20
        assert report.checkpoints == 2
        assert report.open_intents == 0
        assert report.origin == used_ledger.key.name


def test_a_running_ledger_can_be_verified(used_copy: Home) -> None:
    ledger = used_copy.open()
    assert verify(used_copy).sound
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


def test_progress_is_told(used_copy: Home) -> None:
    told: list[tuple[int, int]] = []
    verify_ledger(used_copy.state, progress=lambda done, total: told.append((done, total)))
    assert told[0][0] == 0
    assert told[0][1] > 80


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        verify_ledger(tmp_path)


# --- other schemas -------------------------------------------------------------------------------


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
def test_another_schema_is_named_and_not_opened(used_copy: Home, change: str, named: str) -> None:
    with closing(sqlite3.connect(used_copy.database, isolation_level=None)) as connection:
        connection.execute(change)
    assert f"schema, {named}" in {flaw.where for flaw in verify(used_copy).flaws}
    with pytest.raises(StateCorrupt, match=named):
        used_copy.open()


# --- cuts, swaps, rewrites (T12) ------------------------------------------------------------------


@pytest.mark.parametrize("column", ["data", "data = ?, hash"])
def test_swapped_entries_are_found(used_copy: Home, column: str) -> None:
    def swap(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT data, hash FROM leaves WHERE position IN (20, 21)")
        (first, second) = rows.fetchall()
        values = (first[:1], second[:1]) if column == "data" else (first, second)
        for position, row in ((20, values[1]), (21, values[0])):
            connection.execute(
                f"UPDATE leaves SET {column} = ? WHERE position = ?", [*row, position]
            )

    with tallied(Promise.LOG_TELLS, "two entries swapped") as tally:
        tamper(used_copy, swap)
        tally.injected()
        assert not verify(used_copy, anchored=False).sound


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


def reword(connection: sqlite3.Connection) -> None:
    """Say that another principal asked, in an entry that no record repeats."""
    connection.execute(
        'UPDATE leaves SET data = CAST(replace(CAST(data AS TEXT), \'"principal":"\', '
        '\'"principal":"not-\') AS BLOB) WHERE position = 30'
    )


def forge(connection: sqlite3.Connection) -> bytes:
    """Reword an entry and make all hashes anew; return the root."""
    reword(connection)
    return rebuild(connection)


def test_an_edited_entry_is_found_by_its_hash(used_copy: Home) -> None:
    with tallied(Promise.LOG_TELLS, "a recorded value edited") as tally:
        tamper(used_copy, reword)
        tally.injected()
        assert not verify(used_copy, anchored=False).sound


def test_an_edited_entry_with_all_hashes_made_anew_is_found_by_the_checkpoints(
    used_copy: Home,
) -> None:
    with tallied(Promise.LOG_TELLS, "the log rewritten from an edited entry on") as tally:
        tamper(used_copy, forge)
        tally.injected()
        places = {flaw.where for flaw in verify(used_copy, anchored=False).flaws}
        assert len([place for place in places if place.startswith("checkpoint")]) == 2


def test_a_rewrite_signed_by_another_log_key_is_found_by_who_knows_the_key(
    used_copy: Home, used_ledger: Used
) -> None:
    private = Ed25519PrivateKey.generate()

    def rewrite(connection: sqlite3.Connection) -> None:
        """Begin the history of checkpoints anew, under a key of one's own."""
        root = forge(connection)
        (size,) = connection.execute("SELECT count(*) FROM leaves").fetchone()
        head = Checkpoint(used_ledger.key.name, size, root)
        key = LogKey(used_ledger.key.name, der(private))
        note = signed(head, key, private.sign(text_of(head))).note
        connection.execute("DELETE FROM checkpoints")
        connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (size, root, note))

    tamper(used_copy, rewrite)
    assert not verify(used_copy, used_ledger.key, anchored=False).sound
    assert not verify(used_copy).sound


def test_a_rewrite_without_checkpoints_is_found_by_the_anchor_alone(used_copy: Home) -> None:
    def rewrite(connection: sqlite3.Connection) -> None:
        forge(connection)
        connection.execute("DELETE FROM checkpoints")

    tamper(used_copy, rewrite)
    assert verify(used_copy, anchored=False).sound
    assert {flaw.where for flaw in verify(used_copy).flaws} == {"anchor"}


@pytest.mark.parametrize("cut", [1, 2, 5, 40])
def test_a_cut_tail_is_found(used_copy: Home, cut: int) -> None:
    def cut_off(connection: sqlite3.Connection) -> None:
        (size,) = connection.execute("SELECT count(*) FROM leaves").fetchone()
        connection.execute("DELETE FROM leaves WHERE position >= ?", (size - cut,))
        for table in ("reservations", "signatures", "intents", "opaque_signatures"):
            connection.execute(f"DELETE FROM {table} WHERE leaf >= ?", (size - cut,))
        connection.execute("DELETE FROM checkpoints WHERE size > ?", (size - cut,))
        rebuild(connection)

    with tallied(Promise.LOG_TELLS, "the log's tail cut off") as tally:
        tamper(used_copy, cut_off)
        tally.injected()
        assert "anchor" in {flaw.where for flaw in verify(used_copy).flaws}


def test_findings_are_bounded(used_copy: Home) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE leaves SET data = CAST('x' || position AS BLOB)")
        connection.executemany(
            "INSERT INTO nodes VALUES (?, ?)", [(n, bytes(32)) for n in range(10_000, 10_500)]
        )

    tamper(used_copy, spoil)
    report = verify(used_copy)
    assert report.flaw_count > 200
    assert len(report.flaws) == min(report.flaw_count, MAX_FLAWS)


def test_memory_does_not_grow_with_the_payloads_of_proposals(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    one = Proposal(
        name="p-0",
        kind="sign_metadata",
        operation=b"{}",
        operation_sha256="0" * 64,
        payload=bytes(1 << 20),
        payload_sha256="0" * 64,
        proposer="unix:ann",
        officer="",
        rules=(),
        officers_sha256="0" * 64,
        policy_revision="",
        created_at=NOW,
        expires_at=NOW,
        state=ProposalState.OPEN,
        leaf=0,
    )
    for number in range(16):
        each = replace(one, name=f"p-{number}")
        ledger.transact(partial(SqliteTransaction.put_proposal, proposal=each))
    ledger.close()
    tracemalloc.start()
    report = verify(Home(tmp_path), anchored=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "proposal p-15: entry 0 does not create it" in map(str, report.flaws)
    assert peak < 8 << 20
