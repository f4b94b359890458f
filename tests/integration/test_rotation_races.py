"""A rotation that ends, or goes on, while somebody else is at work on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keyd.domain import canonical, public_keys
from keyd.domain.keys import KeyState
from keyd.domain.payload import parse
from keyd.domain.records import Reservation, ReservationState
from keyd.domain.records_rotation import Rotation, RotationState
from keyd.domain.rehearsal import Act, Play
from keyd.domain.trust import KeySet
from keyd.errors import ApprovalRequired, BackendUnavailable, InvalidRequest, PolicyViolation
from keyd.ports import Transaction
from keyd.services.rotation import retiring, starting, uploads
from keyd.services.rotation.payloads import builder
from keyd.services.rotation.progress import recorded_rotation
from keyd.services.rotation.rehearsing import rehearse
from keyd.services.rotation.reserving import SigningStep, reserve_step
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World
from tests.fakes import TestClock
from tests.integration.rotating import begin, go_on, rotation_of, state, world
from tests.officers import enrol, person
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key

__all__ = ["world"]


@pytest.fixture
def author(world: World) -> Author:
    return active_author(world)


def recorded(world: World, name: str) -> Rotation:
    return world.ledger.read(lambda view: recorded_rotation(view, name))


def root_step(world: World, rotation: Rotation) -> SigningStep:
    return SigningStep(rotation, 0, "root", builder(world, rotation, "root"))


def test_nothing_is_bound_for_a_rotation_that_was_given_up(world: World, author: Author) -> None:
    """It would bind a root version that no later rotation could take."""
    rotation = recorded(world, new_root(world))
    starting.cancel(world, ADMIN, rotation.name, "wrong key")
    with pytest.raises(PolicyViolation) as refused:
        reserve_step(world, ADMIN.principal, root_step(world, rotation))
    assert refused.value.reason == "ROTATION_ENDED"
    assert world.ledger.read(lambda view: view.reservation("demo", "root", 0, 2)) is None


class GivenUpMeanwhile:
    """Clients that take their time: somebody else ends the rotation before they are done."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        starting.cancel(self._world, ADMIN, self._name, "")
        return ()


def test_a_rehearsal_does_not_bring_back_what_was_given_up(world: World, author: Author) -> None:
    rotation = recorded(world, begin(world, rotation_of("timestamp", "timestamp", "timestamp-2")))
    slow = replace(world, rehearsal=GivenUpMeanwhile(world, rotation.name))
    with pytest.raises(PolicyViolation) as refused:
        rehearse(slow, ADMIN, rotation)
    assert refused.value.reason == "ROTATION_ENDED"
    assert recorded(world, rotation.name).state is RotationState.CANCELLED


class ChangedMeanwhile:
    """Clients that take their time: the files change before they are done."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        def add(tx: Transaction) -> None:
            [*_, last] = tx.rotation_files(self._name)
            tx.put_rotation_file(replace(last, step=last.step + 1))

        self._world.ledger.transact(add)
        return ()


def test_only_the_files_that_clients_met_are_released(world: World, author: Author) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    slow = replace(world, rehearsal=ChangedMeanwhile(world, name))
    with pytest.raises(BackendUnavailable) as refused:
        go_on(slow, name)
    assert refused.value.reason == "ROTATION_MOVED"
    assert recorded(world, name).state is RotationState.RUNNING


class CalledAgain:
    """Clients that outlast the call: the caller comes again before they are done."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.reasons: list[str] = []

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        with pytest.raises(BackendUnavailable) as refused:
            go_on(self._world, self._name)
        self.reasons.append(refused.value.reason)
        raise BackendUnavailable("TOKEN_BUSY", "these clients came to nothing")


def test_a_rehearsal_is_not_begun_twice_at_once(world: World, author: Author) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    called = CalledAgain(world, name)
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="came to nothing"):
            go_on(replace(world, rehearsal=called), name)
    assert called.reasons == ["ROTATION_REHEARSING"] * 2
    go_on(world, name)
    assert recorded(world, name).state is RotationState.READY


def test_a_late_confirmation_does_not_begin_the_grace_time_again(
    world: World, author: Author
) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    go_on(world, name)
    ready = recorded(world, name)
    retiring.confirm(world, ADMIN, ready)
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    retiring.retire_due(world)
    # Read before the first one was recorded.
    retiring.confirm(world, ADMIN, ready)
    assert recorded(world, name).state is RotationState.DONE
    assert state(world, "timestamp") is KeyState.DEACTIVATED


def test_officers_enrolled_while_a_step_is_judged_are_asked(world: World, author: Author) -> None:
    rotation = recorded(world, new_root(world))
    step = root_step(world, rotation)
    enrolled: list[bool] = []

    class Racing:
        """The ledger, into whose gap between reading and writing the genesis falls."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.ledger, name)

        def transact(self, work: object) -> object:
            if not enrolled:
                enrolled.append(True)
                enrol(world, person("ann"), person("ben"), person("cat"))
            return world.ledger.transact(work)  # type: ignore[arg-type]

    racing = replace(world, ledger=Racing())  # type: ignore[arg-type]
    with pytest.raises(ApprovalRequired):
        reserve_step(racing, ADMIN.principal, step)


def new_root(world: World) -> str:
    """A root rotation whose key is made and whose root is not bound yet."""
    make_key(world, "root-4")
    return begin(world, rotation_of("root", "root-3", "root-4"))


def test_a_key_id_that_two_lists_use_counts_for_the_key_that_signed(
    world: World, author: Author
) -> None:
    """The old list means root-1 by it, the new one root-2: one must not vote for the other."""
    root = author.root(2)
    root_1, root_2 = author.keys["root-1"], author.keys["root-2"]
    _, second = public_keys.tuf_key(root_2.public_der, root_2.scheme)
    shared = "ab" * 32
    root["keys"] = {**root["keys"], shared: second}
    root["roles"]["root"]["keyids"] = [shared, *root["roles"]["root"]["keyids"][2:]]
    payload = parse(canonical.encode(root), max_bytes=10**6)
    reservation = Reservation(
        repository="demo",
        role="root",
        epoch=0,
        version=2,
        digest=payload.digest,
        required=(KeySet("root:1", 1, {shared: root_1.fingerprint}),),
        state=ReservationState.RESERVED,
        leaf=0,
        created_at=world.clock.now(),
    )
    [signature] = sign_verified(
        world, "soft", [(root_2, payload.raw)], Deadline(world.clock, TIMEOUT_S)
    )
    assert isinstance(signature, bytes)
    with pytest.raises(InvalidRequest) as refused:
        world.ledger.read(
            lambda view: uploads._signer(view, reservation, payload, shared, signature)
        )
    assert refused.value.reason == "SIGNATURE_INVALID"
