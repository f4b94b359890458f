"""New keys and opaque signatures that officers are asked about: exactly what they saw, once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Content, Key, KeySpec, Scheme
from keyd.domain.methods import METHODS
from keyd.domain.operations import CreateKey, SignOpaque, action, decode, encode
from keyd.domain.policy import Grant, Quorum
from keyd.domain.quorum import QuorumRule
from keyd.domain.tokens import TokenState
from keyd.errors import BackendUnavailable, KeydError
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.key_creation import create_key
from keyd.services.opaque import OpaqueReleased, OpaqueRequest, sign_opaque
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


def test_an_approval_makes_no_second_key(world: World) -> None:
    """One whose token failed after it was asked is used up."""
    shown = approve(world, propose(world, WANTED), ANN, BEN)
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.state = TokenState.OFFLINE
    for call in (lambda: execute(world, ADMIN, shown.proposal.name), lambda: create(world)):
        refused("TOKEN_UNAVAILABLE", call)
    token.state = TokenState.ONLINE
    token.failures.append(BackendUnavailable("TOKEN_FAILED", "it failed"))
    refused("TOKEN_FAILED", execute, world, ADMIN, shown.proposal.name)
    refused("APPROVAL_REQUIRED", execute, world, ADMIN, shown.proposal.name)
    refused("APPROVAL_REQUIRED", create, world)


def test_opaque_bytes_are_signed_as_approved(world: World, tmp_path: Path) -> None:
    shown = approve(world, propose(world, signing(world)), ANN, BEN)
    refused("NOT_EXECUTABLE", execute, world, ADMIN, shown.proposal.name)
    refused("APPROVAL_REQUIRED", sign, world, b"another layout")
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
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
