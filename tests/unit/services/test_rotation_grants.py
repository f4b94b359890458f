"""A rotation makes and signs for nobody who could not have it made and signed without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import KeyState
from keyd.domain.methods import METHODS
from keyd.domain.operations import StartRotation
from keyd.domain.policy import Caller, Grant, Policy
from keyd.errors import ApprovalRequired, NotAllowed
from keyd.services import proposals
from keyd.services.check import check
from keyd.services.rotation import advancing, planning, starting
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.fakes import TestClock
from tests.officers import approve, enrol, person, propose
from tests.worlds import (
    ADMIN,
    TIMEOUT_S,
    Author,
    FixedPolicy,
    active_author,
    allow_all,
    make_key,
    open_world,
)

ROTATOR = Caller("unix:rotator", local_admin=False)
WANTED = Wanted(
    "TIMESTAMP",
    "demo",
    (WantedRole("timestamp", (WantedKey("fresh", "soft", "ed25519"),), ("timestamp",)),),
)
ROTATING = Grant(
    name="rotating",
    line=2,
    principals=frozenset({ROTATOR.principal}),
    methods=frozenset(method for method in METHODS if method.startswith("RotationService.")),
    repositories=frozenset({"demo"}),
)
CREATING = replace(
    ROTATING,
    name="creating",
    line=3,
    methods=frozenset({"KeyService.CreateKey"}),
    repositories=frozenset(),
    keys=frozenset({"fresh"}),
    tokens=frozenset({"soft"}),
)
SIGNING = replace(
    ROTATING,
    name="signing",
    line=4,
    methods=frozenset({"SigningService.SignMetadata"}),
    roles=frozenset({"root", "timestamp"}),
    keys=frozenset({"root-1", "root-2", "root-3", "fresh"}),
)
MARKING = replace(
    CREATING,
    name="marking",
    line=5,
    methods=frozenset({"KeyService.MarkKeyCompromised"}),
    keys=frozenset({"timestamp"}),
    tokens=frozenset(),
)


def granted(world: World, *grants: Grant) -> World:
    """The same world under a policy that also gives the administrator everything."""
    everything = allow_all(ADMIN.principal).grants
    return replace(world, policy=FixedPolicy(Policy("1" * 64, (*everything, *grants))))


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    made = active_author(open_world(tmp_path))
    yield made
    made.world.ledger.close()


def start(world: World, caller: Caller = ROTATOR, wanted: Wanted = WANTED) -> str:
    planned = planning.plan(world, caller, wanted)
    return starting.start(world, caller, wanted, planned.digest, grace_s=3600).rotation.name


@pytest.mark.parametrize(
    ("grants", "missing"),
    [
        ((ROTATING,), "KeyService.CreateKey on fresh/soft"),
        (
            (ROTATING, replace(CREATING, tokens=frozenset({"other"})), SIGNING),
            "does not name the token 'soft'",
        ),
        ((ROTATING, CREATING), "SigningService.SignMetadata on demo/root/root-1"),
        (
            (ROTATING, CREATING, replace(SIGNING, roles=frozenset({"timestamp"}))),
            "does not name the role 'root'",
        ),
        (
            (ROTATING, CREATING, replace(SIGNING, keys=SIGNING.keys - {"fresh"})),
            "does not name the key 'fresh'",
        ),
    ],
)
def test_who_starts_may_make_and_sign_all_of_it(
    author: Author, grants: tuple[Grant, ...], missing: str
) -> None:
    world = granted(author.world, *grants)
    with pytest.raises(NotAllowed, match=missing) as refused:
        start(world)
    assert refused.value.reason == "POLICY_DENIES"
    assert world.ledger.read(lambda view: view.rotations("demo")) == ()


def test_who_continues_may_sign_what_has_expired_meanwhile(author: Author) -> None:
    """No plan says it, and without the grant nothing of it is bound."""
    world = granted(author.world, ROTATING, CREATING, SIGNING)
    name = start(world)
    assert isinstance(world.clock, TestClock)
    world.clock.advance(days=8)
    with pytest.raises(NotAllowed, match=r"SigningService\.SignMetadata on demo/snapshot/snapshot"):
        advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    assert world.ledger.read(lambda view: view.rotation_files(name)) == ()


def test_all_of_it_is_enough(author: Author) -> None:
    world = granted(author.world, ROTATING, CREATING, SIGNING)
    name = start(world)
    # Nobody is there to rehearse in this test: all before that is done.
    with pytest.raises(AssertionError, match="rehearse"):
        advancing.go_on(rehearsed_by_nobody(world), ROTATOR, name, timeout_s=TIMEOUT_S)
    files = world.ledger.read(lambda view: view.rotation_files(name))
    assert [file.role for file in files if file.content] == ["root", "timestamp"]


def rehearsed_by_nobody(world: World) -> World:
    class Nobody:
        def rehearse(self, play: object) -> tuple[()]:
            raise AssertionError("rehearse")

    return replace(world, rehearsal=Nobody())


@pytest.mark.parametrize("grants", [(ROTATING,), (ROTATING, CREATING), (ROTATING, SIGNING)])
def test_who_continues_may_make_and_sign_what_is_left(
    author: Author, grants: tuple[Grant, ...]
) -> None:
    name = start(author.world, ADMIN)
    world = granted(author.world, *grants)
    with pytest.raises(NotAllowed, match="may not call"):
        advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    assert world.ledger.read(lambda view: view.rotation_files(name)) == ()
    assert world.ledger.read(lambda view: view.key("fresh")) is None


def test_what_is_done_needs_no_grant_any_more(author: Author) -> None:
    world = rehearsed_by_nobody(author.world)
    name = start(world, ADMIN)
    with pytest.raises(AssertionError, match="rehearse"):
        advancing.go_on(world, ADMIN, name, timeout_s=TIMEOUT_S)
    with pytest.raises(AssertionError, match="rehearse"):
        advancing.go_on(granted(world, ROTATING), ROTATOR, name, timeout_s=TIMEOUT_S)


def test_a_key_is_marked_by_the_grants_of_that_moment(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was no stolen one yet when the caller was authorised needs a grant as well."""
    wanted = replace(WANTED, kind="EMERGENCY", compromised=("timestamp",))
    world = granted(author.world, ROTATING, CREATING, SIGNING)
    digest = planning.plan(world, ROTATOR, wanted).digest
    found = starting._stolen
    monkeypatch.setattr(starting, "_stolen", lambda plan, view: [])

    def meanwhile(*_: object) -> None:
        monkeypatch.setattr(starting, "_stolen", found)

    monkeypatch.setattr(starting, "demand_all", meanwhile)
    with pytest.raises(NotAllowed, match=r"KeyService.MarkKeyCompromised on timestamp"):
        starting.start(world, ROTATOR, wanted, digest, grace_s=3600)
    key = world.ledger.read(lambda view: view.key("timestamp"))
    assert key is not None
    assert key.state is KeyState.ACTIVE


def test_who_may_mark_a_stolen_key_starts_with_it(author: Author) -> None:
    wanted = replace(WANTED, kind="EMERGENCY", compromised=("timestamp",))
    world = granted(author.world, ROTATING, CREATING, SIGNING, MARKING)
    start(world, ROTATOR, wanted)
    key = world.ledger.read(lambda view: view.key("timestamp"))
    assert key is not None
    assert key.state is KeyState.COMPROMISED


def test_a_check_touches_the_key_that_it_names(author: Author) -> None:
    checking = replace(SIGNING, methods=frozenset({"SigningService.CheckMetadata"}))
    world = granted(author.world, checking)
    payload = author.timestamp()
    check(world, ROTATOR, author.request("", "timestamp", payload))
    with pytest.raises(NotAllowed, match="does not name the key 'timestamp'"):
        check(world, ROTATOR, author.request("timestamp", "timestamp", payload))


BINS_WANTED = Wanted(
    "DELEGATED",
    "demo",
    (WantedRole("bin", (WantedKey("fresh", "soft", "ed25519"),), ("bins",)),),
)
SIGNING_BINS = replace(
    SIGNING,
    roles=frozenset({"targets", "snapshot", "timestamp", "bin-0", "bin-1"}),
    keys=frozenset({"targets", "snapshot", "timestamp", "fresh"}),
)


@pytest.fixture
def with_bins(author: Author) -> Author:
    """Two published bins of the key `bins`."""
    author.keys["bins"] = make_key(author.world, "bins")
    succinct = {**author.listing(1, "bins"), "bit_length": 1, "name_prefix": "bin"}
    delegations = {"keys": author.key_objects("bins"), "succinct_roles": succinct}
    author.sign("targets", "targets", author.targets(2, delegations=delegations))
    for role in ("bin-0", "bin-1"):
        author.sign("bins", role, author.targets(1))
    versions = {"targets": 2, "bin-0": 1, "bin-1": 1}
    author.sign("snapshot", "snapshot", author.snapshot(2, **versions))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    return author


@pytest.mark.parametrize("role", sorted(SIGNING_BINS.roles))
def test_every_bin_that_is_signed_is_asked_for(with_bins: Author, role: str) -> None:
    signing = replace(SIGNING_BINS, roles=SIGNING_BINS.roles - {role})
    world = granted(with_bins.world, ROTATING, CREATING, signing)
    with pytest.raises(NotAllowed, match=f"does not name the role '{role}'"):
        start(world, wanted=BINS_WANTED)
    assert world.ledger.read(lambda view: view.rotations("demo")) == ()


def test_grants_for_every_bin_are_enough(with_bins: Author) -> None:
    world = rehearsed_by_nobody(granted(with_bins.world, ROTATING, CREATING, SIGNING_BINS))
    name = start(world, wanted=BINS_WANTED)
    with pytest.raises(AssertionError, match="rehearse"):
        advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    files = world.ledger.read(lambda view: view.rotation_files(name))
    assert [file.role for file in files if file.content] == [
        *("targets", "bin-0", "bin-1"),
        *("snapshot", "timestamp"),
    ]


PROPOSING = replace(
    ROTATING,
    name="proposing",
    line=6,
    methods=frozenset(method for method in METHODS if method.startswith("ProposalService.")),
    any_role=True,
)
RECOVERY = replace(WANTED, kind="FAST_FORWARD", lower={"timestamp": 1})


def epoch(world: World) -> int:
    role = world.ledger.read(lambda view: view.role("demo", "timestamp"))
    assert role is not None
    return role.epoch


def warned_of_administrator(world: World) -> bool:
    found = planning.plan(world, ROTATOR, RECOVERY).findings
    return "RECOVERY_BY_ADMINISTRATOR" in {finding.reason for finding in found}


def test_without_officers_the_administrator_alone_lowers_versions(author: Author) -> None:
    world = rehearsed_by_nobody(granted(author.world, ROTATING, CREATING, SIGNING))
    assert warned_of_administrator(world)
    with pytest.raises(NotAllowed, match="fast-forward recovery while no officers") as refused:
        start(world, wanted=RECOVERY)
    assert refused.value.reason == "LOCAL_ADMINISTRATOR_ONLY"
    assert world.ledger.read(lambda view: view.rotations("demo")) == ()

    name = start(world, ADMIN, RECOVERY)
    with pytest.raises(NotAllowed) as refused:
        advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    assert refused.value.reason == "LOCAL_ADMINISTRATOR_ONLY"
    assert (world.ledger.read(lambda view: view.rotation_files(name)), epoch(world)) == ((), 0)
    # Once they are lowered the rest is for whoever may sign it.
    for caller in (ADMIN, ROTATOR):
        with pytest.raises(AssertionError, match="rehearse"):
            advancing.go_on(world, caller, name, timeout_s=TIMEOUT_S)
        assert epoch(world) == 1


def test_with_officers_it_is_theirs_to_lower_versions(author: Author) -> None:
    world = rehearsed_by_nobody(granted(author.world, ROTATING, CREATING, SIGNING, PROPOSING))
    ann, ben, cat = person("ann"), person("ben"), person("cat")
    enrol(world, ann, ben, cat)
    assert not warned_of_administrator(world)
    digest = planning.plan(world, ROTATOR, RECOVERY).digest
    with pytest.raises(ApprovalRequired):
        start(world, wanted=RECOVERY)
    approve(world, propose(world, StartRotation("demo", digest)), ann, ben)
    name = start(world, wanted=RECOVERY)
    went = advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    (root,) = went.progress.proposals
    approve(world, proposals.get(world, ADMIN, root), ann, ben)
    with pytest.raises(AssertionError, match="rehearse"):
        advancing.go_on(world, ROTATOR, name, timeout_s=TIMEOUT_S)
    assert epoch(world) == 1


def test_other_rotations_need_no_administrator(author: Author) -> None:
    world = granted(author.world, ROTATING, CREATING, SIGNING)
    start(world, wanted=replace(WANTED, kind="EMERGENCY"))
