"""What a repair cannot know: payloads voided since the backup, and what people decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.checkpoint import LogKey
from keyd.domain.keys import KeyState
from keyd.domain.operations import ChangeKeyState
from keyd.domain.records import Reservation, ReservationState
from keyd.errors import (
    ApprovalRequired,
    Equivocation,
    PolicyViolation,
)
from keyd.ledger import anchor
from keyd.ledger.backup import backup, restore
from keyd.ledger.verification.export import export_log
from keyd.ledger.verification.exported import verify_export
from keyd.ledger.verification.verify import verify_ledger
from keyd.ports import Transaction
from keyd.services.audit import ensure_log_key
from keyd.services.audit import sign_checkpoint as sign_checkpoint_of
from keyd.services.imports import import_metadata
from keyd.services.keys import change_state
from keyd.services.proposals import execute
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.ledgers import (
    ORIGIN,
    REPOSITORY,
    Home,
    complete,
    fix,
    go_on,
    past_triggers,
    put_back,
    refused,
    refused_to_write,
    reserve,
    sign,
)
from tests.officers import approve, enrol, person, propose
from tests.worlds import (
    ADMIN,
    SIGNER,
    Author,
    active_author,
    make_key,
    open_world,
    signed_file,
)

# --- versions whose payload was voided -----------------------------------------------------------


def void(made: Reservation) -> Callable[[Transaction], None]:
    """As officers do it; the entry that tells of it is lost with everything after the backup."""
    return lambda tx: tx.put_reservation(replace(made, state=ReservationState.VOIDED), b"")


def lost_of(home: Home) -> list[tuple[int, int, str]]:
    ledger = home.open()
    assert ledger.refusal() is None
    found = ledger.read(lambda view: view.lost_versions(REPOSITORY))
    ledger.close()
    return [(lost.first, lost.last, lost.digest) for lost in found]


def put_back_before(
    home: Home, tmp_path: Path, *, voided_before: bool = False
) -> tuple[Reservation, Reservation]:
    """The ledger from before targets 6 was used again: what waited then, and what it became."""
    ledger = home.open()
    first = ledger.transact(reserve(6))
    if voided_before:
        ledger.transact(void(first))
    backup(home.state, tmp_path / "backup.db")
    if not voided_before:
        ledger.transact(void(first))
    second = sign(ledger, 6, salt="second")
    ledger.close()
    put_back(home, tmp_path / "backup.db")
    return first, second


@pytest.mark.parametrize("voided_before", [False, True])
def test_a_repair_keeps_the_payload_that_the_anchor_saw(
    home: Home, tmp_path: Path, voided_before: bool
) -> None:
    """It took the older payload for the version's, voided or not, and told the anchor so."""
    first, second = put_back_before(home, tmp_path, voided_before=voided_before)
    assert "version 6 has another payload than the anchor saw" in refused_to_write(home)

    done = fix(home)
    assert [str(rise) for rise in done.raised] == [f"demo/targets epoch 0: 5 -> 6 {second.digest}"]
    assert lost_of(home) == [(6, 6, second.digest)]
    assert f'["demo","targets",0,6,"{second.digest}"]' in (home.anchor / "anchor.jsonl").read_text()
    assert len(list(home.anchor.glob("anchor.jsonl.replaced-*"))) == 1
    ledger = home.open()
    for salt in ("", "third"):
        assert isinstance(refused(ledger, reserve(6, salt=salt)), Equivocation)
    assert isinstance(refused(ledger, complete(first)), Equivocation)
    sign(ledger, 7)
    ledger.close()


def test_a_mark_is_raised_by_hand_above_a_version_with_another_payload(
    home: Home, tmp_path: Path
) -> None:
    first, second = put_back_before(home, tmp_path)
    raised = [str(rise) for rise in fix(home, {(REPOSITORY, "targets"): 9}).raised]
    assert raised == [
        f"demo/targets epoch 0: 5 -> 6 {second.digest}",
        "demo/targets epoch 0: 6 -> 9",
    ]
    assert lost_of(home) == [(6, 6, second.digest), (7, 9, "")]
    ledger = home.open()
    assert isinstance(refused(ledger, complete(first)), Equivocation)
    sign(ledger, 10)
    ledger.close()


def test_a_repair_that_was_cut_short_can_be_repeated(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = put_back_before(home, tmp_path)

    def cut(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(anchor, "write", cut)
        with pytest.raises(OSError, match="no room"):
            fix(home)
    assert refused_to_write(home).startswith("LEDGER_BEHIND_ANCHOR")
    assert fix(home).raised == ()
    assert lost_of(home) == [(6, 6, second.digest)]


def test_a_version_that_the_ledger_voided_is_no_gap(home: Home) -> None:
    """The anchor may lack the last second: it knows the payload that was voided then."""
    ledger = home.open()
    first = ledger.transact(reserve(6))
    ledger.close()
    old = (home.anchor / "anchor.jsonl").read_bytes()
    ledger = home.open()
    ledger.transact(void(first))
    sign(ledger, 6, salt="second")
    ledger.close()
    (home.anchor / "anchor.jsonl").write_bytes(old)
    ledger = home.open()
    assert ledger.refusal() is None
    ledger.close()


@pytest.mark.parametrize("newer", [0, 1])
def test_a_root_that_waited_in_the_backup_is_not_completed_after_its_void(
    tmp_path: Path, newer: int
) -> None:
    """Officers voided it since, and another one was published, alone or with its successor."""
    home, tokens = Home(tmp_path), FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    ensure_log_key(world, "soft", 10.0)
    author = active_author(world)
    wrong = author.root(2, days=380)
    confirmed = author.change_digest(wrong)
    author.sign("root-1", "root", wrong, confirmed_change=confirmed)
    backup(home.state, tmp_path / "b")
    waiting = world.ledger.read(lambda view: view.reservation("demo", "root", 0, 2))
    assert waiting is not None
    world.ledger.transact(void(waiting))
    files = []
    for version in range(2, 3 + newer):
        right = author.root(version, days=390)
        author.publish_root(right, "root-1", "root-2")
        files.append(("root", author.published(right, "root-1", "root-2")))
    world.ledger.close()
    restore(tmp_path / "b", home.state, world.clock.now())
    fix(home)

    world = open_world(tmp_path, tokens=tokens)
    author = Author(world, "demo", author.keys)
    for key in ("root-1", "root-2"):
        with pytest.raises(PolicyViolation, match="VERSION_NOT_INCREASING"):
            author.sign(key, "root", wrong, confirmed_change=confirmed)
    done = import_metadata(world, SIGNER, repository="demo", files=files)
    assert [one.recorded for one in done] == [True] * len(files)
    author.publish_root(author.root(3 + newer, days=395), "root-1", "root-2")
    sign_checkpoint_of(world, 10.0)
    origin = world.ledger.unsigned_checkpoint().origin
    log_key = world.ledger.read(lambda view: view.key("keyd-log"))
    world.ledger.close()
    assert verify_ledger(home.state, anchor=home.anchor).flaws == []
    assert log_key is not None
    export_log(home.state, tmp_path / "export")
    assert verify_export(tmp_path / "export", LogKey(origin, log_key.public_der)).flaws == []


@pytest.mark.parametrize("later", [False, True])
def test_every_version_that_waited_in_the_backup_is_taken_for_used(
    tmp_path: Path, later: bool
) -> None:
    """Of several versions that waited, the lower one was published otherwise; no gap shows it."""
    home, tokens = Home(tmp_path), FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    ensure_log_key(world, "soft", 10.0)
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("t1", "t2", "c1", "c2")}
    listed = (2, ["t1", "t2", "c1", "c2"])
    author.publish_root(author.root(2, days=380, targets=listed), "root-1", "root-2")
    old = [author.targets(2), author.targets(3)]
    root = author.root(3, days=380, targets=listed)
    confirmed = author.change_digest(root)
    for signed in old:
        author.sign("t1", "targets", signed)
    author.sign("root-1", "root", root, confirmed_change=confirmed)
    backup(home.state, tmp_path / "b")
    for held in world.ledger.read(
        lambda v: [v.reservation("demo", "targets", 0, n) for n in (2, 3)]
    ):
        assert held is not None
        world.ledger.transact(void(held))
    good = author.targets(2, days=80)
    files = [("targets", signed_file(author, good, "c1", "c2"))]
    assert import_metadata(world, SIGNER, repository="demo", files=files)[0].recorded
    if later:
        author.sign("t1", "targets", author.targets(4))
    world.ledger.close()
    restore(tmp_path / "b", home.state, world.clock.now())
    assert {(rise.mark.role, rise.before + 1) for rise in fix(home).raised} == {
        ("targets", 2),
        ("targets", 3),
    }

    world = open_world(tmp_path, tokens=tokens)
    author = Author(world, "demo", author.keys)
    for signed in old:
        with pytest.raises(PolicyViolation, match="VERSION_NOT_INCREASING"):
            author.sign("t2", "targets", signed)
    assert author.sign("root-2", "root", root, confirmed_change=confirmed).accepted
    assert import_metadata(world, SIGNER, repository="demo", files=files)[0].recorded
    sign_checkpoint_of(world, 10.0)
    origin = world.ledger.unsigned_checkpoint().origin
    log_key = world.ledger.read(lambda view: view.key("keyd-log"))
    world.ledger.close()
    assert verify_ledger(home.state, anchor=home.anchor).flaws == []
    assert log_key is not None
    export_log(home.state, tmp_path / "export")
    assert verify_export(tmp_path / "export", LogKey(origin, log_key.public_der)).flaws == []


# --- what officers decided -----------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_approval_that_was_used_since_the_backup_is_not_good_for_a_second_time(
    tmp_path: Path, by_hand: bool
) -> None:
    """By hand: the anchor was restored along with the ledger, so nothing refuses."""
    home, tokens = Home(tmp_path), FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    active_author(world)
    ann, ben, cat = person("ann"), person("ben"), person("cat")
    enrol(world, ann, ben, cat)
    spare = make_key(world, "spare")
    retire = (world, ADMIN, "KeyService.DeactivateKey", "spare")
    change_state(*retire, new=KeyState.DEACTIVATED, comment="")
    shown = propose(world, ChangeKeyState("spare", spare.fingerprint, "DEACTIVATED", "ACTIVE"))
    approve(world, shown, ann, ben)
    backup(home.state, tmp_path / "b")
    old = (home.anchor / "anchor.jsonl").read_bytes()
    execute(world, ADMIN, shown.proposal.name, timeout_s=10.0)
    change_state(world, *retire[1:], new=KeyState.DEACTIVATED, comment="again")
    world.ledger.close()
    restore(tmp_path / "b", home.state, world.clock.now())
    if by_hand:
        (home.anchor / "anchor.jsonl").write_bytes(old)
    done = fix(home, {("demo", "timestamp"): 2} if by_hand else {})
    assert bool(done.refusal) is not by_hand
    assert done.cancelled == (shown.proposal.name,)
    assert {key.name: key.state for key in done.keys}["spare"] is KeyState.DEACTIVATED
    assert [officer.name for officer in done.officers] == ["ann", "ben", "cat"]

    world = open_world(tmp_path, tokens=tokens)
    with pytest.raises(ApprovalRequired, match="APPROVAL_REQUIRED"):
        execute(world, ADMIN, shown.proposal.name, timeout_s=10.0)
    key = world.ledger.read(lambda view: view.key("spare"))
    assert key is not None
    assert key.state is KeyState.DEACTIVATED
    world.ledger.close()
    assert verify_ledger(home.state, anchor=home.anchor).flaws == []


def test_a_host_that_was_restored_whole_goes_on_under_a_new_name(
    home: Home, tmp_path: Path
) -> None:
    """Ledger and anchor agree, so nothing refuses; both are older than what others have seen."""
    backup(home.state, tmp_path / "b")
    old = (home.anchor / "anchor.jsonl").read_bytes()
    go_on(home, 9)
    put_back(home, tmp_path / "b")
    (home.anchor / "anchor.jsonl").write_bytes(old)
    done = fix(home, {(REPOSITORY, "targets"): 9}, replace_anchor=True)
    assert done.refusal == ""
    assert done.previous_origin == ORIGIN
    assert done.origin.startswith(f"{ORIGIN}/since-")


# --- what verification says afterwards -----------------------------------------------------------


def test_a_repaired_ledger_is_sound_before_its_next_checkpoint(tmp_path: Path) -> None:
    """The anchor has the newest checkpoint: one under the log's old name."""
    home = Home(tmp_path)
    world = open_world(tmp_path)
    ensure_log_key(world, "soft", 10.0)
    sign_checkpoint_of(world, 10.0)
    backup(home.state, tmp_path / "b")
    make_key(world, "lost")
    world.ledger.close()
    restore(tmp_path / "b", home.state, world.clock.now())
    fix(home)
    assert '"checkpoint"' in (home.anchor / "anchor.jsonl").read_text()
    assert verify_ledger(home.state, anchor=home.anchor).flaws == []


def test_a_repaired_ledger_is_sound_though_the_begin_of_its_epoch_is_lost(tmp_path: Path) -> None:
    home, tokens = Home(tmp_path), FakeTokens(SoftwareToken("soft", TestClock()))
    world = open_world(tmp_path, tokens=tokens)
    active_author(world)
    backup(home.state, tmp_path / "b")
    known = world.ledger.read(lambda view: view.role("demo", "timestamp"))
    assert known is not None
    world.ledger.transact(lambda tx: tx.put_role(replace(known, epoch=1, high_water=4)))
    world.ledger.close()
    restore(tmp_path / "b", home.state, world.clock.now())
    assert [rise.mark.epoch for rise in fix(home).raised] == [1]
    assert verify_ledger(home.state, anchor=home.anchor).flaws == []
    home.open().close()
    with past_triggers(home.database) as connection:
        connection.execute("UPDATE roles SET epoch = 2 WHERE name = 'timestamp'")
    assert "demo/timestamp: it is in epoch 2, the log began 0" in map(
        str, verify_ledger(home.state).flaws
    )
