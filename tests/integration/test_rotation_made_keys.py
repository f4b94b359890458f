"""The keys that a rotation makes are those of its plan, whoever else makes keys meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Content, KeySpec, KeyState, Scheme
from keyd.domain.records_rotation import RotationState
from keyd.domain.rotation.reading import plan_lines, read_plan
from keyd.errors import PolicyViolation
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key
from keyd.services.key_creation import adopt_key
from keyd.services.keys import change_state
from keyd.services.rotation import advancing, planning, starting
from keyd.services.world import World
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.integration.rotating import begin, go_on, rotation_of, signed_roles, sound, state
from tests.worlds import ADMIN, TIMEOUT_S, active_author, make_key, open_world

WANTED = rotation_of("timestamp", "timestamp", "fresh")


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = TestClock()
    tokens = FakeTokens(SoftwareToken("soft", clock), SoftwareToken("away", clock))
    made = replace(open_world(tmp_path, clock=clock, tokens=tokens), rehearsal=StockClients())
    ensure_log_key(made, "soft", TIMEOUT_S)
    active_author(made)
    return made


def adopted(world: World) -> None:
    """A pair that came onto the token by another way, perhaps with a copy elsewhere."""
    cka_id = b"brought along"
    world.tokens.get("soft").generate(KeySpec(Scheme.ED25519), cka_id, "x", TIMEOUT_S)
    adopt_key(
        *(world, ADMIN),
        name="fresh",
        token="soft",
        cka_id=cka_id,
        scheme=None,
        content=Content.TUF,
        timeout_s=TIMEOUT_S,
    )


def retired(world: World) -> None:
    make_key(world, "fresh")
    change_state(
        *(world, ADMIN, "KeyService.DeactivateKey", "fresh"),
        new=KeyState.DEACTIVATED,
        comment="",
    )


OTHERS: dict[str, tuple[Callable[[World], object], str]] = {
    "another token": (lambda world: make_key(world, "fresh", token="away"), "on token away"),
    "another scheme": (
        lambda world: make_key(world, "fresh", scheme=Scheme.ECDSA_P256),
        "ecdsa-sha2-nistp256, generated",
    ),
    "no TUF key": (lambda world: make_key(world, "fresh", content=Content.OPAQUE), "for opaque"),
    "made outside": (adopted, "adopted on token soft"),
    "given up": (retired, "it is DEACTIVATED"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_key_under_the_planned_name_is_not_taken(
    world: World, tmp_path: Path, name: str
) -> None:
    make, told = OTHERS[name]
    rotation = begin(world, WANTED)
    make(world)
    for _ in range(2):
        with pytest.raises(PolicyViolation, match=told) as refused:
            go_on(world, rotation)
        assert refused.value.reason == "ROTATION_KEY_UNFIT"
    assert signed_roles(world, rotation) == []
    step = advancing.get(world, ADMIN, rotation).steps[0]
    assert (step.text, step.done) == ("generate key fresh (ed25519) on token soft", False)
    ended = starting.cancel(world, ADMIN, rotation, "another name").rotation
    assert ended.state is RotationState.CANCELLED
    sound(world, tmp_path)


def test_the_very_key_of_the_plan_may_be_there_already(world: World, tmp_path: Path) -> None:
    """As after a crash behind its making."""
    rotation = begin(world, WANTED)
    make_key(world, "fresh")
    assert go_on(world, rotation).progress.rotation.state is RotationState.READY
    # It is listed by now, and no new key any more.
    assert state(world, "fresh") is KeyState.ACTIVE
    assert go_on(world, rotation).progress.steps[0].done
    sound(world, tmp_path)


def test_a_plan_names_the_material_of_a_key_that_is_there(world: World) -> None:
    key = make_key(world, "fresh")
    planned = planning.plan(world, ADMIN, WANTED)
    [change] = json.loads(planned.json)["change"]["changes"]
    assert change["add"][0]["fingerprint"] == key.fingerprint
    line = f"     role timestamp: key added: {key.fingerprint}, fresh, on token soft (ed25519)"
    assert line in plan_lines(read_plan(planned.json))
