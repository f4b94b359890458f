"""A ledger that lost something: noticed, refused, repaired on the record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.audit import Event
from keyd.domain.records import Repository, Role
from keyd.domain.trust import RepositoryState
from keyd.errors import (
    InvalidRequest,
    PolicyViolation,
    StateCorrupt,
)
from keyd.ledger.backup import backup, restore
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.imports import import_metadata
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.ledgers import (
    NOW,
    ORIGIN,
    REPOSITORY,
    Home,
    entry,
    fix,
    go_on,
    named,
    payload,
    put_back,
    refused_to_write,
    reservation,
    reserve,
    role_of,
    sign,
    sign_checkpoint,
)
from tests.worlds import SIGNER, Author, active_author, open_world


def test_a_restored_ledger_refuses_until_repaired(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    go_on(home, 9)
    go_on(home, 3, role="other")
    put_back(home, copy)
    refusal = refused_to_write(home)
    assert refusal.startswith("LEDGER_BEHIND_ANCHOR")
    assert "demo/targets: the ledger is at version 5, the anchor at 9" in refusal
    assert "demo/other: the ledger is at version 0, the anchor at 3" in refusal

    done = fix(home)
    assert {(r.mark.role, r.before, r.mark.version) for r in done.raised} == {
        ("targets", 5, 9),
        ("other", 0, 3),
    }
    ledger = home.open()
    assert ledger.refusal() is None
    assert role_of(ledger).high_water == 9
    for role, used in (("targets", (6, 9)), ("other", (1, 3))):
        for version in used:
            with pytest.raises(PolicyViolation, match="VERSION_NOT_INCREASING"):
                ledger.transact(reserve(version, role))
        sign(ledger, used[1] + 1, role)
    ledger.close()


def test_a_repair_is_on_the_record_and_the_log_gets_a_new_name(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    go_on(home, 9)
    put_back(home, copy)
    done = fix(home)
    assert done.previous_origin == ORIGIN
    assert done.origin == f"{ORIGIN}/since-20300601T120000Z"
    ledger = home.open()
    leaf = json.loads(ledger.read(lambda view: list(view.leaves(done.leaf, done.leaf + 1)))[0].data)
    assert leaf["event"] == "ledger_repaired"
    assert leaf["principal"] == "operator"
    assert leaf["reason"] == "LEDGER_BEHIND_ANCHOR"
    assert leaf["raised"][0].startswith("demo/targets epoch 0: 5 -> 9 ")
    assert leaf["anchor_size"] > leaf["previous_size"]
    assert ledger.unsigned_checkpoint().origin == done.origin
    assert [
        (lost.first, lost.last) for lost in ledger.read(lambda v: v.lost_versions(REPOSITORY))
    ] == [(6, 9)]
    sign_checkpoint(ledger)
    ledger.close()
    assert Home(tmp_path).open().refusal() is None


def test_repairs_can_follow_each_other(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    for last in (9, 12):
        go_on(home, last)
        put_back(home, copy)
        refused_to_write(home)
        fix(home)
        go_on(home, last + 1)


def test_a_repository_made_after_the_backup_keeps_its_marks(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    ledger = home.open()

    late = Repository("late", RepositoryState.ACTIVE, False, False, NOW)
    ledger.transact(lambda tx: tx.put_repository(late))
    ledger.transact(lambda tx: tx.put_role(Role("late", "root", epoch=0, high_water=4)))
    ledger.close()
    put_back(home, copy)
    assert "late/root: the ledger is at version 0, the anchor at 4" in refused_to_write(home)
    fix(home)
    ledger = home.open()
    assert ledger.refusal() is None
    ledger.transact(lambda tx: tx.put_repository(late))
    ledger.transact(lambda tx: tx.put_role(Role("late", "root")))
    assert ledger.read(lambda view: view.role("late", "root")).high_water == 4  # type: ignore[union-attr]
    ledger.close()


def test_marks_can_be_raised_by_hand_but_never_lowered(home: Home) -> None:
    with pytest.raises(InvalidRequest, match="NOTHING_TO_REPAIR"):
        fix(home)
    with pytest.raises(InvalidRequest, match="MARK_NOT_RAISED"):
        fix(home, {(REPOSITORY, "targets"): 5})
    done = fix(home, {(REPOSITORY, "targets"): 20, (REPOSITORY, "new"): 2})
    assert done.origin == ORIGIN
    ledger = home.open()
    assert role_of(ledger).high_water == 20
    with pytest.raises(PolicyViolation):
        ledger.transact(reserve(2, "new"))
    ledger.transact(reserve(21))
    ledger.transact(reserve(3, "new"))
    ledger.close()


def test_by_hand_and_by_anchor_at_once(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup(home.state, copy)
    go_on(home, 9)
    put_back(home, copy)
    with pytest.raises(InvalidRequest, match="MARK_NOT_RAISED"):
        fix(home, {(REPOSITORY, "targets"): 9})
    fix(home, {(REPOSITORY, "targets"): 11})
    ledger = home.open()
    assert role_of(ledger).high_water == 11
    ledger.close()


def test_lost_versions_can_be_imported_with_their_bytes(home: Home) -> None:

    fix(home, {(REPOSITORY, "targets"): 9})
    ledger = home.open()

    def take_in(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.METADATA_IMPORTED, named(reservation(8))))
        tx.put_reservation(replace(reservation(8), leaf=leaf), payload(8))

    ledger.transact(take_in)
    assert role_of(ledger).high_water == 9
    ledger.close()


# --- the whole way -------------------------------------------------------------------------------


def test_a_repository_goes_on_after_the_loss_of_a_root(tmp_path: Path) -> None:
    tokens = FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    author = active_author(world)
    backup(Home(tmp_path).state, tmp_path / "b")
    files = []
    for version in (2, 3):
        author.publish_root(author.root(version), "root-1", "root-2")
        files.append(author.published(author.root(version), "root-1", "root-2"))
    author.sign("timestamp", "timestamp", author.timestamp(2))
    world.ledger.close()
    restore(tmp_path / "b", Home(tmp_path).state, world.clock.now())

    world = open_world(tmp_path, tokens=tokens)
    author = Author(world, "demo", author.keys)
    with pytest.raises(StateCorrupt, match="LEDGER_BEHIND_ANCHOR"):
        author.sign("timestamp", "timestamp", author.timestamp(2))
    world.ledger.close()
    fix(Home(tmp_path))

    world = open_world(tmp_path, tokens=tokens)
    author = Author(world, "demo", author.keys)
    with pytest.raises(PolicyViolation, match="VERSION_NOT_INCREASING"):
        author.sign("timestamp", "timestamp", author.timestamp(2))
    author.sign("timestamp", "timestamp", author.timestamp(3))
    done = import_metadata(world, SIGNER, repository="demo", files=[("root", f) for f in files])
    assert [(one.recorded, one.raised_mark) for one in done] == [(True, False)] * 2
    author.publish_root(author.root(4), "root-1", "root-2")
    assert verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor).flaws == []
    world.ledger.close()
