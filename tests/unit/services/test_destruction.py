"""A destroyed key is gone from the ledger and from its token, however often that is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.domain.keys import Key, KeyState
from keyd.domain.operations import ChangeKeyState
from keyd.domain.records import IntentState
from keyd.domain.records_quorum import ProposalState
from keyd.domain.tokens import TokenState
from keyd.errors import BackendUnavailable, KeydError
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.keys import change_state
from keyd.services.proposals import Shown
from keyd.services.recovery import close_open_intents
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.ledgers import Home
from tests.officers import approve, enrol, execute, person, propose
from tests.worlds import ADMIN, make_key, open_world

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")


class Crash(BaseException):
    """What no service catches, like the end of a process."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = open_world(tmp_path)
    enrol(made, ANN, BEN, CAT)
    make_key(made, "other")
    return made


def token_of(world: World) -> SoftwareToken:
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    return token


def approved(world: World) -> tuple[Key, Shown]:
    """A key that two officers want destroyed."""
    key = make_key(world, "old")
    for state, method in ((KeyState.DEACTIVATED, "KeyService.DeactivateKey"),):
        change_state(world, ADMIN, method, "old", new=state, comment="")
    operation = ChangeKeyState("old", key.fingerprint, "DEACTIVATED", "DESTROYED")
    return key, approve(world, propose(world, operation), ANN, BEN)


def on_token(world: World, key: Key) -> bool:
    return key.cka_id in {found.cka_id for found in token_of(world).inventory(1.0)}


def state_of(world: World) -> tuple[KeyState | None, IntentState | None]:
    key = world.ledger.read(lambda view: view.key("old"))
    intent = world.ledger.read(lambda view: view.deletion("old"))
    return key.state if key else None, intent.state if intent else None


def check_sound(tmp_path: Path) -> None:
    assert verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor).flaws == []


@pytest.mark.parametrize(
    ("before", "reason"), [("PRE_ACTIVE", "KEY_STATE_TRANSITION"), ("DEACTIVATED", "KEY_CHANGED")]
)
def test_officers_are_not_asked_for_what_cannot_be(world: World, before: str, reason: str) -> None:
    key = make_key(world, "old")
    with pytest.raises(KeydError) as refused:
        propose(world, ChangeKeyState("old", key.fingerprint, before, "DESTROYED"))
    assert refused.value.reason == reason


def test_the_pair_goes_and_its_neighbour_stays(world: World, tmp_path: Path) -> None:
    key, shown = approved(world)
    before = len(token_of(world).inventory(1.0))
    done = execute(world, ADMIN, shown.proposal.name)
    assert done.proposal.state is ProposalState.EXECUTED
    assert not on_token(world, key)
    assert len(token_of(world).inventory(1.0)) == before - 1
    assert state_of(world) == (KeyState.DESTROYED, IntentState.COMPLETED)
    size = world.ledger.read(lambda view: view.log_size())
    assert execute(world, ADMIN, shown.proposal.name).proposal == done.proposal
    assert world.ledger.read(lambda view: view.log_size()) == size
    check_sound(tmp_path)


def offline(token: SoftwareToken, key: Key) -> None:
    token.state = TokenState.OFFLINE


def swapped(token: SoftwareToken, key: Key) -> None:
    token.plant(key.cka_id)


@pytest.mark.parametrize(
    ("spoil", "reason"), [(offline, "TOKEN_UNAVAILABLE"), (swapped, "KEY_NOT_ON_TOKEN")]
)
def test_nothing_happens_while_the_token_is_not_as_recorded(
    world: World, spoil: Callable[[SoftwareToken, Key], None], reason: str
) -> None:
    key, shown = approved(world)
    spoil(token_of(world), key)
    with pytest.raises(KeydError) as refused:
        execute(world, ADMIN, shown.proposal.name)
    assert refused.value.reason == reason
    assert state_of(world) == (KeyState.DEACTIVATED, None)
    token_of(world).state = TokenState.ONLINE
    assert on_token(world, key)


@pytest.mark.parametrize("deleted", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("crash", [True, False], ids=["crash", "failure"])
def test_an_interrupted_deletion_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, deleted: bool, crash: bool
) -> None:
    key, shown = approved(world)
    token, destroy = token_of(world), SoftwareToken.destroy

    def interrupted(_: SoftwareToken, key: Key, timeout_s: float) -> int:
        if deleted:
            destroy(token, key, timeout_s)
        raise Crash if crash else BackendUnavailable("TOKEN_FAILED", "it failed")

    with monkeypatch.context() as patched:
        patched.setattr(SoftwareToken, "destroy", interrupted)
        with pytest.raises(Crash if crash else BackendUnavailable):
            execute(world, ADMIN, shown.proposal.name)
    if crash:
        with pytest.raises(KeydError, match="KEY_DELETION_UNDER_WAY"):
            execute(world, ADMIN, shown.proposal.name)
        assert close_open_intents(world.ledger, world.clock) == 1
    assert state_of(world) == (KeyState.DESTROYED, IntentState.UNKNOWN)
    assert on_token(world, key) is not deleted
    execute(world, ADMIN, shown.proposal.name)
    assert not on_token(world, key)
    assert state_of(world) == (KeyState.DESTROYED, IntentState.COMPLETED)
    check_sound(tmp_path)


def test_what_stays_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key, shown = approved(world)
    with monkeypatch.context() as patched:
        patched.setattr(SoftwareToken, "destroy", lambda *_: 2)
        with pytest.raises(KeydError) as refused:
            execute(world, ADMIN, shown.proposal.name)
    assert refused.value.reason == "KEY_OBJECTS_STAY"
    assert on_token(world, key)
    execute(world, ADMIN, shown.proposal.name)
    assert not on_token(world, key)
