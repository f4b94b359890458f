"""A signature added to a bound version: what may have changed since, and what must not matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Content, Key, KeySpec, KeyState, Origin, Scheme
from keyd.errors import KeydError, NotAllowed, PolicyViolation
from keyd.ledger.backup import backup, restore
from keyd.ledger.repair import repair
from keyd.ports import KeyBackend
from keyd.services.check import check, recorded
from keyd.services.imports import import_metadata
from keyd.services.keys import change_state
from keyd.services.opaque import OpaqueRequest, sign_opaque
from keyd.services.world import World
from tests.authors import Signed
from tests.fakes import SoftwareToken, TestClock
from tests.worlds import (
    ADMIN,
    SIGNER,
    TIMEOUT_S,
    Author,
    active_author,
    make_key,
    open_ledger,
    open_world,
    signed_file,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def import_signed(author: Author, role: str, signed: Signed, *keys: str) -> None:
    files = [(role, signed_file(author, signed, *keys))]
    [taken] = import_metadata(author.world, SIGNER, repository="demo", files=files)
    assert taken.recorded, taken.findings


def test_every_signer_of_a_root_confirms_its_change(world: World) -> None:
    author = active_author(world)
    root = author.root(2, days=366)
    digest = author.change_digest(root)
    assert not author.sign("root-1", "root", root, confirmed_change=digest).accepted
    for seen in ("", "0" * 64):
        with pytest.raises(PolicyViolation) as refused:
            author.sign("root-2", "root", root, confirmed_change=seen)
        assert refused.value.reason == "CHANGE_NOT_CONFIRMED"
        assert refused.value.details["change"] == digest
    request = author.request("root-2", "root", root)
    assert not check(world, SIGNER, request).would_sign
    assert author.sign("root-2", "root", root, confirmed_change=digest).accepted
    # Trusted by now: there is nothing left to decide.
    assert check(world, SIGNER, author.request("root-3", "root", root)).would_sign
    assert author.sign("root-3", "root", root).accepted


def test_a_key_that_became_a_targets_key_signs_no_delegated_role(world: World) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("one", "two")}
    author.sign("targets", "targets", author.delegating(2, team=(2, ["one", "two"])))
    team = author.targets(1)
    author.sign("one", "team", team)
    # The rules refuse such a root here; one that was published is a fact.
    root = author.root(2, days=366, targets=(1, ["two"]))
    import_signed(author, "root", root, "root-1", "root-2")
    with pytest.raises(NotAllowed) as refused:
        author.sign("two", "team", team)
    assert refused.value.reason == "TARGETS_KEY_IN_DELEGATED_ROLE"


@pytest.fixture
def restored(tmp_path: Path) -> Author:
    """Targets 2 and 3 were signed and released, then a backup of before was put in place.

    The targets role lists a key that lives elsewhere too.
    """
    author = active_author(open_world(tmp_path))
    author.keys["elsewhere"] = elsewhere(author.world.tokens.get("soft"))
    root = author.root(2, days=366, targets=(1, ["targets", "elsewhere"]))
    author.publish_root(root, "root-1", "root-2")
    backup(tmp_path / "ledger", tmp_path / "copy")
    for version in (2, 3):
        author.sign("targets", "targets", author.targets(version))
    author.world.ledger.close()
    clock = author.world.clock
    restore(tmp_path / "copy", tmp_path / "ledger", clock.now())
    repair(tmp_path / "ledger", clock=clock, principal="operator", anchor=tmp_path / "anchor")
    assert isinstance(clock, TestClock)
    author.world = replace(author.world, ledger=open_ledger(tmp_path, clock))
    return author


def elsewhere(token: KeyBackend) -> Key:
    """A key pair that the daemon does not know; the token signs by it for these tests."""
    found = token.generate(KeySpec(Scheme.ED25519), b"elsewhere", "elsewhere", TIMEOUT_S)
    return Key(
        name="elsewhere",
        token=token.name,
        cka_id=found.cka_id,
        scheme=Scheme.ED25519,
        public_der=found.public_der,
        content=Content.TUF,
        state=KeyState.ACTIVE,
        origin=Origin.ADOPTED,
        created_at=token.status().since,
    )


def test_what_contradicts_a_lost_version_is_not_imported(restored: Author) -> None:
    """The anchor knew which payload the highest version had."""
    other = restored.targets(3, days=80)
    [taken] = import_metadata(
        restored.world,
        SIGNER,
        repository="demo",
        files=[("targets", signed_file(restored, other, "elsewhere"))],
    )
    assert not taken.recorded
    assert taken.findings[0].reason == "VERSION_ALREADY_SIGNED_DIFFERENTLY"


def test_no_key_signs_a_second_payload_for_a_lost_version(restored: Author) -> None:
    """What was published for it binds the version, but our key may have signed other bytes."""
    other = restored.targets(2, days=80)
    import_signed(restored, "targets", other, "elsewhere")
    with pytest.raises(PolicyViolation) as refused:
        restored.sign("targets", "targets", other)
    assert refused.value.reason == "VERSION_NOT_INCREASING"
    # The one that the anchor knows is signed again.
    import_signed(restored, "targets", restored.targets(3), "elsewhere")
    assert restored.sign("targets", "targets", restored.targets(3)).accepted
    assert restored.sign("targets", "targets", restored.targets(4)).accepted


def test_a_root_that_changed_the_keys_leaves_no_way_in(world: World) -> None:
    """Keys that root has removed add signatures, but cannot make clients' targets of them."""
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("one", "two", "new")}
    author.publish_root(author.root(2, days=366, targets=(2, ["one", "two"])), "root-1", "root-2")
    targets = author.targets(2)
    author.sign("one", "targets", targets)
    author.publish_root(author.root(3, days=367, targets=(1, ["new"])), "root-1", "root-2")
    late = author.sign("two", "targets", targets)
    assert (late.accepted, late.missing) == (False, 1)
    assert author.sign("two", "targets", targets).missing == 1
    with pytest.raises(PolicyViolation) as refused:
        author.sign("snapshot", "snapshot", author.snapshot(2, targets=2))
    assert refused.value.reason == "SIGNING_ORDER_WRONG"
    assert author.sign("new", "targets", author.targets(3)).accepted


def test_keys_that_stay_may_finish_what_they_began(world: World) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("one", "two")}
    keys = (2, ["one", "two"])
    author.publish_root(author.root(2, days=366, targets=keys), "root-1", "root-2")
    targets = author.targets(2)
    author.sign("one", "targets", targets)
    author.publish_root(author.root(3, days=367, targets=keys), "root-1", "root-2")
    assert author.sign("two", "targets", targets).accepted


def test_a_role_whose_delegation_is_gone_is_not_accepted(world: World) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("one", "two")}
    author.sign("targets", "targets", author.delegating(2, team=(2, ["one", "two"])))
    team = author.targets(1)
    author.sign("one", "team", team)
    author.sign("targets", "targets", author.targets(3))
    late = author.sign("two", "team", team)
    assert (late.accepted, late.missing) == (False, 1)


@pytest.mark.parametrize(
    ("method", "state", "reason"),
    [
        ("SuspendKey", KeyState.SUSPENDED, "KEY_SUSPENDED"),
        ("DeactivateKey", KeyState.DEACTIVATED, "KEY_DEACTIVATED"),
        ("MarkKeyCompromised", KeyState.COMPROMISED, "QUORUM_UNAVAILABLE"),
    ],
)
def test_a_key_withdrawn_while_the_token_works_releases_nothing(
    world: World, method: str, state: KeyState, reason: str
) -> None:
    author = active_author(world)
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.before_sign = lambda: withdraw(world, method, state)
    with pytest.raises(KeydError) as refused:
        author.sign("targets", "targets", author.targets(2))
    assert refused.value.reason == reason
    found = recorded(world, SIGNER, "demo", "targets", 2)
    assert found.signatures == ()
    assert not world.ledger.read(lambda view: view.open_intents())


def test_an_opaque_key_withdrawn_while_the_token_works_releases_nothing(world: World) -> None:
    make_key(world, "layouts", content=Content.OPAQUE)
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.before_sign = lambda: withdraw(world, "SuspendKey", KeyState.SUSPENDED, "layouts")
    request = OpaqueRequest("layouts", b"a layout")
    with pytest.raises(NotAllowed) as refused:
        sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S)
    assert refused.value.reason == "KEY_SUSPENDED"
    with pytest.raises(NotAllowed):
        sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S)


def withdraw(world: World, method: str, state: KeyState, key: str = "targets") -> None:
    change_state(world, ADMIN, f"KeyService.{method}", key, new=state, comment="stolen")
