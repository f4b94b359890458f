"""Anchors that are missing, foreign, damaged or ahead: noticed before anything is signed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from keyd.errors import AlreadyExists, InvalidRequest, KeydError, NotFound, StateCorrupt
from keyd.ledger import writer
from keyd.ledger.backup import backup
from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger
from keyd.ledger.repair import repair
from tests.ledgers import (
    CLOCK,
    ORIGIN,
    Home,
    fix,
    furnished,
    go_on,
    past_triggers,
    put_back,
    refused_to_write,
    reservation,
    reserve,
    sign,
)


def test_a_deleted_ledger_is_not_begun_anew(home: Home) -> None:
    shutil.rmtree(home.state)
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        home.open()
    with pytest.raises(StateCorrupt, match="ANCHOR_EXISTS"):
        home.create()
    assert not home.database.exists()
    home.create(replace_anchor=True)
    ledger = home.open()
    assert ledger.refusal() is None
    ledger.close()
    assert len(list(home.anchor.glob("anchor.jsonl.replaced-*"))) == 1


def test_a_creation_that_was_cut_short_can_be_repeated(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.database.unlink()
    home.create()
    home.open().close()


def test_a_ledger_is_never_created_over_another(home: Home) -> None:
    with pytest.raises(AlreadyExists, match="LEDGER_EXISTS"):
        home.create()
    home.database.rename(home.state / "elsewhere")
    (home.state / "ledger.db-wal").touch()
    with pytest.raises(AlreadyExists, match="LEDGER_EXISTS"):
        home.create()


def test_a_missing_anchor_is_noticed(home: Home) -> None:
    (home.anchor / "anchor.jsonl").unlink()
    assert refused_to_write(home).startswith("ANCHOR_MISSING")
    with pytest.raises(StateCorrupt, match="ANCHOR_MISSING"):
        fix(home)
    fix(home, replace_anchor=True)
    go_on(home, 6)


def test_an_anchor_that_is_no_longer_configured_is_noticed(home: Home) -> None:
    ledger = open_ledger(home.state, anchor=None)
    assert (ledger.refusal() or "").startswith("ANCHOR_MISSING")
    ledger.close()


def test_an_anchor_may_move(home: Home, tmp_path: Path) -> None:
    home.anchor.rename(tmp_path / "moved")
    ledger = open_ledger(home.state, anchor=tmp_path / "moved")
    assert ledger.refusal() is None
    ledger.close()


def test_an_anchor_can_be_given_up_on_the_record(home: Home) -> None:
    repair(home.state, clock=CLOCK, principal="op", anchor=None, replace_anchor=True)
    ledger = open_ledger(home.state, anchor=None)
    assert ledger.refusal() is None
    sign(ledger, 6)
    ledger.close()


def test_a_ledger_without_anchor_can_get_one(tmp_path: Path) -> None:
    state = tmp_path / "ledger"
    create_ledger(state, origin=ORIGIN, development=True, clock=CLOCK)
    open_ledger(state).close()
    open_ledger(state, anchor=tmp_path / "anchor").close()
    ledger = open_ledger(state)
    assert (ledger.refusal() or "").startswith("ANCHOR_MISSING")
    ledger.close()


def test_another_ledgers_anchor_is_refused_and_kept(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.base.mkdir()
    other.create()
    shutil.rmtree(home.anchor)
    shutil.copytree(other.anchor, home.anchor)
    assert refused_to_write(home).startswith("ANCHOR_FOREIGN")
    fix(home, replace_anchor=True)
    assert len(list(home.anchor.glob("anchor.jsonl.replaced-*"))) == 1
    go_on(home, 6)


def test_a_damaged_anchor_is_noticed(home: Home) -> None:
    path = home.anchor / "anchor.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"epoch"', b'"epoxx"').replace(b'"ledger":"', b'"ledger":"0', 1))
    assert refused_to_write(home).startswith("ANCHOR_CORRUPT")


def test_a_torn_last_line_is_no_damage(home: Home) -> None:
    path = home.anchor / "anchor.jsonl"
    with path.open("ab") as file:
        file.write(b'{"size":999,"root":"00","ma')
    go_on(home, 6)


@pytest.mark.parametrize("hole", [slice(0, 64), slice(400, 700), slice(-300, -100)])
def test_a_hole_that_a_power_cut_left_is_damage_only_where_all_was_flushed(
    tmp_path: Path, hole: slice
) -> None:
    ledger = furnished(tmp_path)
    for version in range(1, 6):
        sign(ledger, version)
    home = Home(tmp_path)
    path = home.anchor / "anchor.jsonl"
    data = bytearray(path.read_bytes())  # not rewritten yet, as a cut finds it
    ledger.close()
    data[hole] = bytes(len(data[hole]))
    path.write_bytes(data)
    if hole.start == 0:
        assert refused_to_write(home).startswith("ANCHOR_CORRUPT")
    else:
        go_on(home, 6)


def test_a_hole_in_the_anchor_does_not_hide_an_older_ledger(home: Home, tmp_path: Path) -> None:
    backup(home.state, tmp_path / "backup.db")
    ledger = home.open()
    for version in range(6, 12):
        sign(ledger, version)
    path = home.anchor / "anchor.jsonl"
    data = bytearray(path.read_bytes())
    ledger.close()
    data[-900:-300] = bytes(600)
    put_back(home, tmp_path / "backup.db")
    path.write_bytes(data)
    assert refused_to_write(home).startswith("LEDGER_BEHIND_ANCHOR")


def test_a_log_cut_or_rewritten_below_the_anchor_is_noticed(home: Home) -> None:
    with past_triggers(home.database) as connection:
        connection.execute("DELETE FROM leaves WHERE position = (SELECT max(position) FROM leaves)")
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        home.open()


def test_a_ledger_ahead_of_its_anchor_is_fine(home: Home) -> None:
    old = (home.anchor / "anchor.jsonl").read_bytes()
    go_on(home, 8)
    (home.anchor / "anchor.jsonl").write_bytes(old)
    ledger = home.open()
    assert ledger.refusal() is None
    ledger.close()
    newest = (home.anchor / "anchor.jsonl").read_text()
    assert '["demo","targets",0,8,' in newest


def test_another_payload_than_the_anchor_saw_is_noticed(home: Home, tmp_path: Path) -> None:
    """Two ledgers from one backup: each signs a version 6 of its own."""
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    go_on(home, 6)
    anchor = (home.anchor / "anchor.jsonl").read_bytes()
    put_back(home, copy)
    fix_anchor = repair(home.state, clock=CLOCK, principal="x", anchor=None, replace_anchor=True)
    assert fix_anchor.refusal.startswith("ANCHOR_MISSING")
    ledger = open_ledger(home.state)
    sign(ledger, 6, salt="mine")
    ledger.close()
    (home.anchor / "anchor.jsonl").write_bytes(anchor)
    assert "demo/targets: version 6 has another payload than the anchor saw" in refused_to_write(
        home
    )


def test_the_anchor_must_lie_apart(tmp_path: Path) -> None:
    for anchor in (tmp_path / "state" / "anchor", tmp_path / "state"):
        with pytest.raises(InvalidRequest, match="ANCHOR_NOT_APART"):
            create_ledger(
                tmp_path / "state", origin=ORIGIN, development=True, clock=CLOCK, anchor=anchor
            )


def test_the_marks_of_a_group_that_failed_but_is_durable_reach_the_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last flush of a COMMIT may fail after the medium took everything."""
    ledger = furnished(tmp_path)
    group = writer._group

    def commit_and_fail(*arguments: Any) -> object:
        group(*arguments)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_group", commit_and_fail)
        with pytest.raises(KeydError):
            ledger.transact(reserve(1))
    bound = reservation(1)
    assert bound.digest not in (tmp_path / "anchor" / "anchor.jsonl").read_text()
    ledger.transact(lambda tx: tx.put_setting("x", "y"))
    told = (tmp_path / "anchor" / "anchor.jsonl").read_text()
    ledger.close()
    assert f'["demo","targets",0,1,"{bound.digest}"]' in told
