"""Keys sign what they were made for, and nobody slips one into another's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.domain import public_keys
from keyd.domain.keys import Content, KeySpec, KeyState, Scheme
from keyd.domain.tokens import FoundKey
from keyd.errors import InvalidRequest, NotAllowed, PolicyViolation
from keyd.services.audit import ensure_log_key, sign_checkpoint
from keyd.services.check import check
from keyd.services.key_creation import LOG_KEY_NAME, adopt_key
from keyd.services.keys import change_state
from keyd.services.opaque import OpaqueRequest, sign_opaque
from keyd.services.repositories import bootstrap
from keyd.services.world import World
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.worlds import (
    ADMIN,
    ROOT_KEYS,
    SIGNER,
    TIMEOUT_S,
    active_author,
    make_key,
    new_author,
    open_world,
)

LAYOUT = b'{"_type":"layout","steps":[]}'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def test_opaque_key_signs_other_formats_once_per_digest(world: World) -> None:
    make_key(world, "layouts", content=Content.OPAQUE)
    request = OpaqueRequest("layouts", LAYOUT)
    first = sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S)
    again = sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.signature == again.signature


def test_opaque_key_refuses_what_looks_like_tuf(world: World) -> None:
    make_key(world, "layouts", content=Content.OPAQUE)
    with pytest.raises(PolicyViolation) as refused:
        sign_opaque(
            world, SIGNER, OpaqueRequest("layouts", b'{"_type":"root"}'), timeout_s=TIMEOUT_S
        )
    assert refused.value.reason == "OPAQUE_LOOKS_LIKE_TUF"


@pytest.mark.parametrize(("development", "lifted"), [(True, True), (False, False)])
def test_refusal_is_lifted_on_development_ledgers_only(
    tmp_path: Path, development: bool, lifted: bool
) -> None:
    world = open_world(tmp_path, development=development, opaque_may_sign_tuf=True)
    make_key(world, "bad", content=Content.OPAQUE)
    request = OpaqueRequest("bad", b'{"_type":"root"}')
    if lifted:
        assert sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S).signature
    else:
        with pytest.raises(PolicyViolation):
            sign_opaque(world, SIGNER, request, timeout_s=TIMEOUT_S)


def test_tuf_key_signs_no_opaque_bytes_and_the_other_way_round(world: World) -> None:
    author = active_author(world)
    with pytest.raises(NotAllowed) as refused:
        sign_opaque(world, SIGNER, OpaqueRequest("targets", LAYOUT), timeout_s=TIMEOUT_S)
    assert refused.value.reason == "KEY_CONTENT_MISMATCH"
    make_key(world, "layouts", content=Content.OPAQUE)
    with pytest.raises(NotAllowed):
        author.sign("layouts", "targets", author.targets(2))


def test_no_metadata_may_list_an_opaque_key(world: World) -> None:
    author = new_author(world)
    author.keys["timestamp"] = make_key(world, "sly", content=Content.OPAQUE)
    with pytest.raises(PolicyViolation) as refused:
        author.sign("root-1", "root", author.root())
    assert "KEY_CONTENT_MISMATCH" in {finding.reason for finding in refused.value.findings}


def test_no_delegation_may_list_an_opaque_key(world: World) -> None:
    author = active_author(world)
    author.keys["sly"] = make_key(world, "sly", content=Content.OPAQUE)
    with pytest.raises(PolicyViolation) as refused:
        author.sign("targets", "targets", author.delegating(2, team=(1, ["sly"])))
    assert "KEY_CONTENT_MISMATCH" in {finding.reason for finding in refused.value.findings}


def test_listed_key_cannot_be_adopted_as_opaque(world: World) -> None:
    author = new_author(world)
    token = world.tokens.get("soft")
    stray = token.generate(KeySpec(Scheme.ED25519), b"outside", "outside", TIMEOUT_S)
    author.keys["targets"] = replace(author.keys["targets"], public_der=stray.public_der)
    author.publish_root(author.root(), *ROOT_KEYS[:2])
    with pytest.raises(PolicyViolation) as refused:
        adopt_key(
            world,
            ADMIN,
            name="outside",
            token="soft",
            cka_id=b"outside",
            scheme=None,
            content=Content.OPAQUE,
            timeout_s=TIMEOUT_S,
        )
    assert refused.value.reason == "KEY_CONTENT_MISMATCH"


def test_log_key_is_the_daemons_own(world: World) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_key(world, LOG_KEY_NAME, content=Content.OPAQUE)
    assert refused.value.reason == "KEY_RESERVED"
    key = ensure_log_key(world, "soft", TIMEOUT_S)
    assert key.content is Content.LOG
    assert sign_checkpoint(world, TIMEOUT_S).checkpoint.note
    with pytest.raises(NotAllowed):
        sign_opaque(world, SIGNER, OpaqueRequest(LOG_KEY_NAME, LAYOUT), timeout_s=TIMEOUT_S)


def test_no_repository_begins_with_an_opaque_key_called_foreign(world: World) -> None:
    sly = make_key(world, "sly", content=Content.OPAQUE)
    _, key_object = public_keys.tuf_key(sly.public_der, sly.scheme)
    with pytest.raises(PolicyViolation) as refused:
        bootstrap(
            world,
            ADMIN,
            name="demo",
            root_keys=[make_key(world, "root-1").name],
            foreign_keys=[key_object],
            threshold=2,
            development=False,
        )
    assert refused.value.reason == "KEY_CONTENT_MISMATCH"


@pytest.mark.parametrize(
    "lie", [{"healthy": False, "problem": "CKA_EXTRACTABLE is not false"}, {"cka_id": b"other"}]
)
def test_a_key_that_is_not_what_was_asked_for_is_not_registered(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    class LyingToken(SoftwareToken):
        def generate(self, *asked: Any) -> FoundKey:
            return replace(super().generate(*asked), **lie)

    clock = TestClock()
    world = open_world(tmp_path, clock=clock, tokens=FakeTokens(LyingToken("soft", clock)))
    with pytest.raises(InvalidRequest) as refused:
        make_key(world, "odd")
    assert refused.value.reason == "KEY_UNFIT"
    assert world.ledger.read(lambda view: view.key("odd")) is None
    assert not world.ledger.read(lambda view: view.open_intents())


def test_a_root_that_keeps_retired_keys_does_not_count_on_them(world: World) -> None:
    author = active_author(world)
    for name in ("root-1", "root-2"):
        change_state(
            world,
            ADMIN,
            "KeyService.DeactivateKey",
            name,
            new=KeyState.DEACTIVATED,
            comment="retired",
        )
    kept = check(world, SIGNER, author.request("", "root", author.root(2, days=366)))
    unreachable = {"OLD_THRESHOLD_UNREACHABLE", "NEW_THRESHOLD_UNREACHABLE"}
    assert unreachable <= {found.reason for found in kept.findings}
    # They sign the root that removes them, and of that both thresholds can be reached.
    author.keys |= {name: make_key(world, name) for name in ("root-4", "root-5")}
    root = author.root(2, days=366, root=(2, ["root-3", "root-4", "root-5"]))
    author.publish_root(root, "root-1", "root-2", "root-4", "root-5")
