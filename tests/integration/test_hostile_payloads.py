"""Hostile payloads through the whole use case: no token is asked and no version is reserved."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.domain.trust import default_rules, type_of_role
from keyd.errors import InvalidRequest
from keyd.services.sign import sign
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.tally import Promise, tallied
from tests.unit.domain.test_payload_hostile import MEMBERS, TEXTS
from tests.worlds import SIGNER, TIMEOUT_S, Author, active_author, open_world

ROWS = [*TEXTS, *MEMBERS]


def likely_role(raw: bytes) -> str:
    """The role whose key and rules get furthest with this payload."""
    if len(raw) > default_rules("timestamp").payload_max_bytes:
        return "targets"
    for role in ("root", "snapshot", "timestamp"):
        if f'"{type_of_role(role)}"'.encode() in raw[:400]:
            return role
    return "targets"


def state(world: World) -> tuple[list[tuple[str, int]], int]:
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    roles = world.ledger.read(lambda view: [(r.name, r.high_water) for r in view.roles("demo")])
    return roles, token.signed


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    directory: Path = tmp_path_factory.mktemp("hostile")
    return active_author(open_world(directory))


@pytest.mark.parametrize(
    ("raw", "reason"), [(row[1], row[2]) for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_nothing_is_asked_and_nothing_is_bound(author: Author, raw: bytes, reason: str) -> None:
    role = likely_role(raw)
    key = {"root": "root-1"}.get(role, role)
    before = state(author.world)
    with tallied(Promise.NO_INTERNAL, "hostile payload") as tally:
        tally.injected()
        with pytest.raises(InvalidRequest) as refused:
            sign(author.world, SIGNER, author.request(key, role, raw), timeout_s=TIMEOUT_S)
        assert refused.value.reason == reason
        assert state(author.world) == before
