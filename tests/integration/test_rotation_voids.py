"""A version that a rotation bound, and that officers freed again: there is always a way on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.keys import KeyState
from keyd.domain.operations import SignMetadata, VoidReservation
from keyd.domain.payload import parse
from keyd.domain.records_rotation import RotationFile, RotationState
from keyd.domain.trust import default_rules
from keyd.errors import ApprovalRequired, NotFound
from keyd.rehearsal.stage import StockClients
from keyd.services import proposals, repositories
from keyd.services.audit import ensure_log_key
from keyd.services.keys import change_state
from keyd.services.rotation import advancing, planning, starting
from keyd.services.rotation.wanted import Wanted
from keyd.services.world import World
from tests.authors import Signed
from tests.fakes import TestClock
from tests.integration.rotating import go_on, later, rotation_of, sound
from tests.officers import approve, carry_out, enrol, person, propose
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key, open_world

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return replace(open_world(tmp_path, clock=TestClock()), rehearsal=StockClients())


@pytest.fixture
def author(world: World, tmp_path: Path) -> Iterator[Author]:
    """A repository, which is sound when the test is over."""
    ensure_log_key(world, "soft", TIMEOUT_S)
    yield active_author(world)
    sound(world, tmp_path)


def agree(world: World, proposal: str) -> None:
    approve(world, proposals.get(world, ADMIN, proposal), ANN, CAT)


def started(world: World, wanted: Wanted) -> str:
    """A rotation that officers let begin."""
    digest = planning.plan(world, ADMIN, wanted).digest
    with pytest.raises(ApprovalRequired) as caught:
        starting.start(world, ADMIN, wanted, digest, grace_s=3600)
    agree(world, caught.value.details["proposal"])
    return starting.start(world, ADMIN, wanted, digest, grace_s=3600).rotation.name


def approved_root(world: World, name: str) -> None:
    """Make the new key, and let officers agree to the root that lists it."""
    (proposal,) = go_on(world, name).progress.proposals
    agree(world, proposal)


def suspend(world: World, *keys: str) -> None:
    for key in keys:
        method = "KeyService.SuspendKey"
        change_state(world, ADMIN, method, key, new=KeyState.SUSPENDED, comment="")


def resume(world: World, *keys: str) -> None:
    for key in keys:
        change_state(world, ADMIN, "KeyService.ResumeKey", key, new=KeyState.ACTIVE, comment="")


def bound(world: World, name: str) -> RotationFile:
    """The only version that the rotation has bound: signed, and below its thresholds."""
    assert go_on(world, name).progress.waiting
    [file] = world.ledger.read(lambda view: view.rotation_files(name))
    place = ("demo", file.role, file.epoch, file.version)
    reservation = world.ledger.read(lambda view: view.reservation(*place))
    assert reservation is not None
    assert world.ledger.read(lambda view: view.signatures(reservation))
    return file


def void(world: World, file: RotationFile) -> None:
    operation = VoidReservation("demo", file.role, file.epoch, file.version, file.digest, 0)
    carry_out(world, operation, ANN, BEN)


def cancelled(world: World, name: str) -> bool:
    ended = starting.cancel(world, ADMIN, name, "another key")
    return ended.rotation.state is RotationState.CANCELLED


def half_signed_root(world: World) -> tuple[str, RotationFile]:
    """A root rotation that waits for two suspended keys."""
    enrol(world, ANN, BEN, CAT)
    name = started(world, rotation_of("root", "root-1", "root-4"))
    approved_root(world, name)
    suspend(world, "root-2", "root-3")
    return name, bound(world, name)


def test_a_voided_root_is_given_up_and_the_next_one_takes_its_version(
    world: World, author: Author
) -> None:
    name, file = half_signed_root(world)
    with pytest.raises(ApprovalRequired, match="ROTATION_NEEDS_VOID"):
        starting.cancel(world, ADMIN, name, "")
    void(world, file)
    step = next(s for s in advancing.get(world, ADMIN, name).steps if s.role == "root")
    assert (step.done, step.version, step.missing) == (False, 0, ())
    assert cancelled(world, name)
    resume(world, "root-2", "root-3")
    other = started(world, rotation_of("root", "root-1", "root-5"))
    approved_root(world, other)
    assert go_on(world, other).progress.rotation.state is RotationState.READY
    root = world.ledger.read(lambda view: view.role("demo", "root"))
    assert root is not None
    assert (root.trusted_version, root.high_water) == (2, 2)


def test_a_voided_root_is_asked_for_again_when_its_rotation_goes_on(
    world: World, author: Author
) -> None:
    """What officers approved before is used up, although the bytes are the same."""
    name, file = half_signed_root(world)
    void(world, file)
    resume(world, "root-2", "root-3")
    approved_root(world, name)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    [again] = world.ledger.read(lambda view: view.rotation_files(name))
    assert (again.version, again.digest) == (file.version, file.digest)


def test_a_root_that_is_made_again_after_a_void_lasts_as_planned(
    world: World, author: Author
) -> None:
    """Days later as well: nobody agreed to more than the plan says."""
    rules = replace(default_rules("root"), allow_shorter_root_expiry=True)
    repositories.set_role_rules(world, ADMIN, "demo", "root", rules=rules, comment="")
    enrol(world, ANN, BEN, CAT)
    wanted = rotation_of("root", "root-1", "root-4")
    name = started(world, replace(wanted, root_lifetime_s=30 * 86_400))
    approved_root(world, name)
    suspend(world, "root-2", "root-3")
    file = bound(world, name)
    void(world, file)
    later(world, days=2)
    approved_root(world, name)
    assert bound(world, name).digest == file.digest


@pytest.mark.parametrize("signers", [["root-2"], ["root-2", "root-3"]], ids=["bound", "trusted"])
def test_a_rotation_ends_whose_version_somebody_else_took(
    world: World, author: Author, signers: list[str]
) -> None:
    """It must neither be shown as the rotation's nor hold it open: no other could begin."""
    name, file = half_signed_root(world)
    void(world, file)
    resume(world, "root-2", "root-3")
    take_root(world, author, author.root(file.version), signers)
    assert not advancing.get(world, ADMIN, name).steps[-1].done
    listed = advancing.list_rotations(world, ADMIN, "demo", page_size=10, page_token="")
    assert [progress.rotation.name for progress in listed.items] == [name]
    with pytest.raises(NotFound, match="NOTHING_RESERVED"):
        advancing.receipt(world, ADMIN, name, "root", timeout_s=TIMEOUT_S)
    assert cancelled(world, name)


def take_root(world: World, author: Author, root: Signed, signers: list[str]) -> None:
    """Officers let keys sign this root instead."""
    raw = canonical.encode(root)
    digest = parse(raw, max_bytes=10**6).digest
    approve(world, propose(world, SignMetadata("demo", "root", 0, 2, digest), raw), ANN, BEN)
    for key in signers:
        author.sign(key, "root", root, confirmed_change=author.change_digest(root))


def test_a_version_is_voided_after_its_rotation_was_given_up(world: World, author: Author) -> None:
    """Other roles may skip a version, so that nothing has to be voided first."""
    keys = ["targets", "targets-b", "targets-c"]
    author.keys |= {key: make_key(world, key) for key in (*keys[1:], "team")}
    author.publish_root(author.root(2, targets=(2, keys)), "root-1", "root-2")
    sign_all(author, keys[:2], author.delegating(2, team=(1, ["team"])))
    author.sign("team", "team", author.targets())
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=2, team=1))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    enrol(world, ANN, BEN, CAT)
    name = started(world, rotation_of("team", "team", "team-2", "DELEGATED"))
    suspend(world, *keys[1:])
    file = bound(world, name)
    assert (file.role, file.version) == ("targets", 3)
    assert cancelled(world, name)
    void(world, file)
    resume(world, *keys[1:])
    sign_all(author, keys[:2], author.delegating(4, team=(1, ["team"])))
    other = started(world, rotation_of("team", "team", "team-3", "DELEGATED"))
    assert go_on(world, other).progress.rotation.state is RotationState.READY


def sign_all(author: Author, keys: list[str], signed: Signed) -> None:
    for key in keys:
        author.sign(key, "targets", signed)
