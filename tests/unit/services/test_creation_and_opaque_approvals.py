"""New keys and opaque signatures that officers are asked about: exactly what they saw, once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import Content, Key, KeySpec, Scheme
from keyd.domain.methods import METHODS
from keyd.domain.operations import CreateKey, SignOpaque, action, decode, encode
from keyd.domain.policy import Grant, Quorum
from keyd.domain.quorum import QuorumRule
from keyd.domain.records_quorum import ProposalState
from keyd.domain.tokens import TokenState
from keyd.errors import BackendUnavailable, KeydError
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.key_creation import create_key
from keyd.services.opaque import OpaqueReleased, OpaqueRequest, sign_opaque
from keyd.services.proposals import Shown, cancel, get
from keyd.services.recovery import close_open_intents
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.ledgers import Home
from tests.officers import approve, enrol, execute, person, propose
from tests.worlds import ADMIN, SIGNER, TIMEOUT_S, FixedPolicy, allow_all, make_key, open_world

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")
DATA = b"a layout"
WANTED = CreateKey("new", "soft", "ed25519", 0, "tuf")


def guarded(world: World) -> World:
    """The same world, whose policy asks two officers about new keys and opaque signatures."""
    scope = Grant(
        name="two",
        line=1,
        principals=frozenset(),
        methods=frozenset({"KeyService.CreateKey", "SigningService.SignOpaque"}),
        any_key=True,
        any_token=True,
    )
    policy = replace(
        allow_all(ADMIN.principal, SIGNER.principal),
        quorums=(Quorum(QuorumRule("two", 2), scope),),
    )
    return replace(world, policy=FixedPolicy(policy))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = open_world(tmp_path)
    enrol(made, ANN, BEN, CAT)
    make_key(made, "layouts", content=Content.OPAQUE)
    return guarded(made)


def create(world: World, operation: CreateKey = WANTED) -> Key:
    return create_key(
        world,
        ADMIN,
        name=operation.key,
        token=operation.token,
        spec=KeySpec(Scheme(operation.scheme), operation.rsa_bits),
        content=Content(operation.content),
        timeout_s=TIMEOUT_S,
    )


def sign(world: World, data: bytes = DATA) -> OpaqueReleased:
    return sign_opaque(world, SIGNER, OpaqueRequest("layouts", data), timeout_s=TIMEOUT_S)


class Crash(BaseException):
    """What no service catches, like the end of a process."""


def token_of(world: World) -> SoftwareToken:
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    return token


def state_of(world: World, shown: Shown) -> ProposalState:
    return get(world, ADMIN, shown.proposal.name).proposal.state


def signing(world: World, data: bytes = DATA) -> SignOpaque:
    key = world.ledger.read(lambda view: view.key("layouts"))
    assert key is not None
    return SignOpaque("layouts", key.fingerprint, hashlib.sha256(data).hexdigest())


def refused(reason: str, call: object, *args: object) -> KeydError:
    assert callable(call)
    with pytest.raises(KeydError) as caught:
        call(*args)
    assert caught.value.reason == reason, caught.value
    return caught.value


def test_the_refusal_tells_the_operation_to_propose(world: World) -> None:
    for call, operation in ((create, WANTED), (sign, signing(world))):
        told = refused("APPROVAL_REQUIRED", call, world).details["operation"]
        assert decode(told.encode()) == operation
        assert encode(operation) == told.encode()
        assert action(operation).method in METHODS


@pytest.mark.parametrize("by", ["call", "proposal"])
def test_a_key_is_made_once_and_as_approved(world: World, tmp_path: Path, by: str) -> None:
    shown = approve(world, propose(world, WANTED), ANN)
    refused("APPROVAL_REQUIRED", execute, world, ADMIN, shown.proposal.name)
    approve(world, shown, BEN)
    for other in (
        replace(WANTED, content="opaque"),
        replace(WANTED, key="newer"),
        replace(WANTED, scheme="ecdsa-sha2-nistp256"),
    ):
        refused("APPROVAL_REQUIRED", create, world, other)
    if by == "call":
        create(world)
    else:
        execute(world, ADMIN, shown.proposal.name)
    made = world.ledger.read(lambda view: view.key("new"))
    assert made is not None
    assert (made.scheme, made.content, made.token) == (Scheme.ED25519, Content.TUF, "soft")
    refused("KEY_EXISTS", execute, world, ADMIN, shown.proposal.name)
    refused("KEY_EXISTS", propose, world, WANTED)
    assert verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor).flaws == []


def test_an_approval_stands_until_one_key_has_come_of_it(world: World, tmp_path: Path) -> None:
    shown = approve(world, propose(world, WANTED), ANN, BEN)
    token = token_of(world)
    calls = (lambda: execute(world, ADMIN, shown.proposal.name), lambda: create(world))
    token.state = TokenState.OFFLINE
    for call in calls:
        refused("TOKEN_UNAVAILABLE", call)
    token.state = TokenState.ONLINE
    for call in calls:
        token.failures.append(BackendUnavailable("TOKEN_FAILED", "it failed"))
        refused("TOKEN_FAILED", call)
        assert state_of(world, shown) is ProposalState.OPEN
    execute(world, ADMIN, shown.proposal.name)
    check_one_key(world, tmp_path, shown)


@pytest.mark.parametrize("generated", [False, True], ids=["before", "after"])
def test_a_crash_leaves_the_approval_for_one_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, generated: bool
) -> None:
    shown = approve(world, propose(world, WANTED), ANN, BEN)
    generate = SoftwareToken.generate

    def crashing(*args: Any) -> None:
        if generated:
            generate(*args)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(SoftwareToken, "generate", crashing)
        with pytest.raises(Crash):
            execute(world, ADMIN, shown.proposal.name)
    # What may still be under way is not begun a second time.
    refused("KEY_EXISTS", execute, world, ADMIN, shown.proposal.name)
    assert close_open_intents(world.ledger, world.clock) == 1
    execute(world, ADMIN, shown.proposal.name)
    check_one_key(world, tmp_path, shown)


def test_an_approval_that_lapses_meanwhile_makes_no_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = approve(world, propose(world, WANTED), ANN, BEN)
    generate = SoftwareToken.generate

    def slow(*args: Any) -> object:
        cancel(world, ADMIN, shown.proposal.name)
        return generate(*args)

    monkeypatch.setattr(SoftwareToken, "generate", slow)
    refused("APPROVAL_REQUIRED", execute, world, ADMIN, shown.proposal.name)
    assert world.ledger.read(lambda view: (view.key("new"), view.open_intents())) == (None, ())


def test_a_call_that_was_given_up_makes_no_second_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is taken for dead, the second makes the key, and then the first comes back."""
    shown = approve(world, propose(world, WANTED), ANN, BEN)
    generate = SoftwareToken.generate

    def late(*args: Any) -> object:
        monkeypatch.setattr(SoftwareToken, "generate", generate)
        close_open_intents(world.ledger, world.clock)
        execute(world, ADMIN, shown.proposal.name)
        return generate(*args)

    monkeypatch.setattr(SoftwareToken, "generate", late)
    refused("APPROVAL_REQUIRED", execute, world, ADMIN, shown.proposal.name)
    check_one_key(world, tmp_path, shown)


def check_one_key(world: World, tmp_path: Path, shown: Shown) -> None:
    """It is registered, its approval is used up, and neither is done once more."""
    assert state_of(world, shown) is ProposalState.EXECUTED
    assert [key.name for key in world.ledger.read(lambda view: view.keys())].count("new") == 1
    for call in (lambda: execute(world, ADMIN, shown.proposal.name), lambda: create(world)):
        refused("KEY_EXISTS", call)
    refused("APPROVAL_REQUIRED", create, world, replace(WANTED, key="newer"))
    assert verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor).flaws == []


def test_opaque_bytes_are_signed_as_approved(world: World, tmp_path: Path) -> None:
    shown = approve(world, propose(world, signing(world)), ANN, BEN)
    refused("NOT_EXECUTABLE", execute, world, ADMIN, shown.proposal.name)
    refused("APPROVAL_REQUIRED", sign, world, b"another layout")
    token = token_of(world)
    # The bytes are bound to the approval before the token is asked: a failure costs nothing.
    token.failures.append(BackendUnavailable("TOKEN_FAILED", "it failed"))
    refused("TOKEN_FAILED", sign, world)
    made = sign(world)
    assert sign(world).signature == made.signature
    refused("APPROVAL_REQUIRED", sign, world, b"another layout")
    assert verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor).flaws == []


def test_what_can_never_be_done_is_not_proposed(world: World) -> None:
    refused("KEY_EXISTS", propose, world, replace(WANTED, key="layouts"))
    refused("KEY_RESERVED", propose, world, replace(WANTED, key="keyd-log"))
    refused("RSA_BITS_INVALID", propose, world, replace(WANTED, rsa_bits=2048))
    refused("OPERATION_MALFORMED", propose, world, replace(WANTED, scheme="rot13"))
    refused("KEY_MISMATCH", propose, world, replace(signing(world), key_sha256="0" * 64))
    refused("KEY_UNKNOWN", propose, world, replace(signing(world), key="nothing"))
