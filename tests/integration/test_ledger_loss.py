"""A ledger that lost something: noticed, refused, repaired on the record; backups and restores."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import public_keys
from keyd.domain.audit import Event
from keyd.domain.records import Repository, Role
from keyd.domain.trust import RepositoryState
from keyd.errors import (
    AlreadyExists,
    InvalidRequest,
    KeydError,
    NotFound,
    PolicyViolation,
    StateCorrupt,
)
from keyd.ledger.backup import backup, restore
from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger
from keyd.ledger.repair import Repaired, repair
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.imports import import_metadata
from tests.authors import Signed
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.ledgers import (
    NOW,
    ORIGIN,
    REPOSITORY,
    Home,
    entry,
    furnished,
    named,
    past_triggers,
    payload,
    reservation,
    reserve,
    role_of,
    sign,
    sign_checkpoint,
)
from tests.worlds import SIGNER, Author, active_author, open_world

CLOCK = TestClock(NOW)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A ledger that signed versions 1 to 5 of targets and is closed."""
    ledger = furnished(tmp_path)
    for version in range(1, 6):
        sign(ledger, version)
    sign_checkpoint(ledger)
    ledger.close()
    return Home(tmp_path)


def go_on(home: Home, last: int, role: str = "targets") -> None:
    ledger = home.open()
    first = ledger.read(lambda view: view.role(REPOSITORY, role))
    for version in range(first.high_water + 1 if first else 1, last + 1):
        sign(ledger, version, role)
    ledger.close()


def put_back(home: Home, copy: Path) -> None:
    restore(copy, home.state, NOW)


def fix(home: Home, raise_to: dict[tuple[str, str], int] | None = None, **more: bool) -> Repaired:
    return repair(
        home.state,
        clock=CLOCK,
        principal="operator",
        anchor=home.anchor,
        raise_to=raise_to,
        **more,
    )


def refused_to_write(home: Home) -> str:
    """Why the ledger refuses; that reading works and nothing can be written."""
    ledger = home.open()
    before = ledger.read(lambda view: view.log_size())
    with pytest.raises(StateCorrupt) as caught:
        ledger.transact(reserve(100))
    each = ledger.transact_each([reserve(100), reserve(101)])
    assert [type(error) for error in each] == [StateCorrupt, StateCorrupt]
    assert ledger.read(lambda view: view.log_size()) == before
    refusal = ledger.refusal()
    ledger.close()
    assert refusal is not None
    assert refusal.startswith(caught.value.reason)
    return refusal


# --- restore and repair ------------------------------------------------------------------------


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


# --- anchors that are missing, foreign, damaged, or ahead ----------------------------------------


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


# --- backups ------------------------------------------------------------------------------------


def test_a_backup_is_one_private_checked_file(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    made = backup(home.state, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert made.file_bytes == target.stat().st_size
    ledger = home.open()
    head = ledger.unsigned_checkpoint()
    assert (made.identity.origin, made.log_size, made.root) == (ORIGIN, head.size, head.root)
    ledger.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anchor", "backup.db", "ledger"]
    with pytest.raises(AlreadyExists, match="BACKUP_EXISTS"):
        backup(home.state, target)


def test_backups_while_signing_hold_one_moment_each(home: Home, tmp_path: Path) -> None:
    ledger = home.open()
    stop = threading.Event()
    failures: list[KeydError] = []

    def keep_signing() -> None:
        version = 6
        while not stop.is_set():
            try:
                sign(ledger, version)
            except KeydError as error:
                failures.append(error)
                return
            version += 1

    thread = threading.Thread(target=keep_signing)
    thread.start()
    sizes = [backup(home.state, tmp_path / f"b{n}").log_size for n in range(5)]
    stop.set()
    thread.join()
    ledger.close()
    assert failures == []
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    for number, size in enumerate(sizes):
        other = Home(tmp_path / f"restored{number}")
        other.base.mkdir()
        made = restore(tmp_path / f"b{number}", other.state, NOW)
        assert made.log_size == size


def test_restoring_keeps_what_was_there(home: Home, tmp_path: Path) -> None:
    backup(home.state, tmp_path / "b")
    before = home.database.read_bytes()
    restore(tmp_path / "b", home.state, NOW)
    kept = home.state / "ledger.db.replaced-20300601T120000.123456Z"
    assert kept.read_bytes() == before
    go_on(home, 6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "LEDGER_FOREIGN"), (b"SQLite format 3\0" + b"x" * 4096, "LEDGER_CORRUPT")],
)
def test_what_is_no_ledger_is_not_restored(
    home: Home, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(StateCorrupt, match=reason):
        restore(tmp_path / "b", home.state, NOW)
    go_on(home, 6)


def test_a_running_ledger_is_neither_restored_nor_repaired(home: Home, tmp_path: Path) -> None:
    backup(home.state, tmp_path / "b")
    ledger = home.open()
    with pytest.raises(KeydError, match="LEDGER_IN_USE"):
        restore(tmp_path / "b", home.state, NOW)
    with pytest.raises(KeydError, match="LEDGER_IN_USE"):
        fix(home)
    ledger.close()


def test_missing_sources_are_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="BACKUP_MISSING"):
        restore(tmp_path / "nothing", home.state, NOW)
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        backup(tmp_path / "nowhere", tmp_path / "b")


# --- the whole way -------------------------------------------------------------------------------


def published(author: Author, signed: Signed, *keys: str) -> bytes:
    """The file that everybody can download, its signatures recorded here."""
    made = [author.sign(key, signed["_type"], signed) for key in keys]
    signatures = []
    for one in made:
        assert one.key is not None
        keyid, _ = public_keys.tuf_key(one.key.public_der, one.key.scheme)
        signatures.append({"keyid": keyid, "sig": one.signature.hex()})
    return json.dumps({"signed": signed, "signatures": signatures}).encode()


def test_a_repository_goes_on_after_the_loss_of_a_root(tmp_path: Path) -> None:
    tokens = FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    author = active_author(world)
    backup(Home(tmp_path).state, tmp_path / "b")
    files = []
    for version in (2, 3):
        author.publish_root(author.root(version), "root-1", "root-2")
        files.append(published(author, author.root(version), "root-1", "root-2"))
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
