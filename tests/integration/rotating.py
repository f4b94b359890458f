"""Rotations for tests: wanted, begun, carried out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Content, KeyState
from keyd.domain.records_rotation import RotationState
from keyd.ledger.verification.verify import verify_ledger
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import advancing, planning, starting
from keyd.services.rotation.advancing import Went
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.worlds import ADMIN, TIMEOUT_S, open_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A real ledger and software tokens, and python-tuf's client to rehearse with."""
    return replace(open_world(tmp_path, clock=TestClock()), rehearsal=StockClients())


@contextmanager
def two_tokens(tmp_path: Path, clock: TestClock) -> Iterator[World]:
    """Like `world`, with tokens soft and away; the ledger is sound when this is over."""
    tokens = FakeTokens(SoftwareToken("soft", clock), SoftwareToken("away", clock))
    opened = open_world(tmp_path, clock=clock, tokens=tokens)
    made = replace(opened, rehearsal=StockClients())
    ensure_log_key(made, "soft", TIMEOUT_S)
    yield made
    sound(made, tmp_path)


def rotation_of(role: str, old: str, new: str, kind: str = "") -> Wanted:
    """One key of a role for another."""
    add = WantedKey(new, "soft", "ed25519")
    return Wanted(kind or role.upper(), "demo", (WantedRole(role, (add,), (old,)),))


def begin(world: World, wanted: Wanted) -> str:
    """Plan it, see that nothing forbids it, start it; returns its name."""
    planned = planning.plan(world, ADMIN, wanted)
    assert not [f for f in planned.findings if f.severity == "refuse"], planned.findings
    return starting.start(world, ADMIN, wanted, planned.digest, grace_s=3600).rotation.name


def go_on(world: World, name: str) -> Went:
    return advancing.go_on(world, ADMIN, name, timeout_s=TIMEOUT_S)


def carry_out(world: World, wanted: Wanted) -> Went:
    """From the plan to its publication, with no help from elsewhere."""
    name = begin(world, wanted)
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY, went.progress
    advancing.confirm_published(world, ADMIN, name)
    return went


def later(world: World, **delta: float) -> None:
    assert isinstance(world.clock, TestClock)
    world.clock.advance(**delta)


def state(world: World, key: str) -> KeyState:
    found = world.ledger.read(lambda view: view.key(key))
    assert found is not None
    assert found.content is Content.TUF
    return found.state


def signed_roles(world: World, name: str) -> Sequence[str]:
    return [file.role for file in world.ledger.read(lambda view: view.rotation_files(name))]


def sound(world: World, base: Path) -> None:
    """The ledger below `base` verifies; it is closed."""
    world.ledger.close()
    report = verify_ledger(base / "ledger", anchor=base / "anchor")
    assert report.sound, report.flaws
