"""A signature added to a bound version: what may have changed since, and what must not matter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyd.domain import canonical, public_keys
from keyd.domain.tokens import SignItem
from keyd.errors import NotAllowed, PolicyViolation
from keyd.services.check import check
from keyd.services.imports import import_metadata
from keyd.services.world import World
from tests.authors import Signed
from tests.worlds import SIGNER, TIMEOUT_S, Author, active_author, make_key, open_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def import_signed(author: Author, role: str, signed: Signed, *keys: str) -> None:
    """Import a file that the tokens signed behind the daemon's back."""
    raw, signatures = canonical.encode(signed), []
    for key in (author.keys[name] for name in keys):
        item = SignItem(key.cka_id, key.public_der, key.scheme, raw)
        [signature] = author.world.tokens.get(key.token).sign([item], TIMEOUT_S)
        assert isinstance(signature, bytes)
        keyid, _ = public_keys.tuf_key(key.public_der, key.scheme)
        signatures.append({"keyid": keyid, "sig": signature.hex()})
    file = json.dumps({"signatures": signatures, "signed": signed}).encode()
    [taken] = import_metadata(author.world, SIGNER, repository="demo", files=[(role, file)])
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
