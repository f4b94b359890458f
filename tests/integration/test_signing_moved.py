"""What changes between a payload's judgement and its reservation is judged again (ADR 0013)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import KeyState
from keyd.domain.trust import default_rules
from keyd.errors import KeydError
from keyd.services.keys import change_state
from keyd.services.repositories import set_role_rules
from keyd.services.world import World
from tests.tally import Promise, tallied
from tests.worlds import ADMIN, Author, active_author, make_key, open_world


class Meanwhile:
    """A ledger on which something else happens right after the next snapshot was read."""

    def __init__(self, world: World) -> None:
        self._ledger = world.ledger
        self.happens: list[Callable[[], object]] = []

    def read(self, work: Callable[[Any], Any]) -> Any:
        result = self._ledger.read(work)
        while self.happens:
            self.happens.pop()()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def shorter_expiry(author: Author) -> None:
    rules = replace(default_rules("targets"), expiry_min_s=60, expiry_max_s=3600)
    set_role_rules(author.world, ADMIN, "demo", "targets", rules=rules, comment="meanwhile")


def suspended(author: Author) -> None:
    change_state(
        author.world,
        ADMIN,
        "KeyService.SuspendKey",
        "targets",
        new=KeyState.SUSPENDED,
        comment="meanwhile",
    )


def a_later_version(author: Author) -> None:
    author.sign("targets", "targets", author.targets(3))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shorter_expiry, "EXPIRY_OUT_OF_WINDOW"),
        (suspended, "KEY_SUSPENDED"),
        (a_later_version, "VERSION_NOT_INCREASING"),
    ],
)
def test_a_payload_that_was_fine_a_moment_ago(
    world: World, change: Callable[[Author], None], reason: str
) -> None:
    author = active_author(world)
    meanwhile = Meanwhile(world)
    late = Author(replace(world, ledger=meanwhile), "demo", author.keys)
    meanwhile.happens.append(lambda: change(author))
    refuses(late, "targets", "targets", author.targets(2), reason)


def test_a_delegation_that_is_gone(world: World) -> None:
    author = active_author(world)
    author.keys["bins"] = make_key(world, "bins")
    author.sign("targets", "targets", author.delegating(2, bin=(1, ["bins"])))
    meanwhile = Meanwhile(world)
    late = Author(replace(world, ledger=meanwhile), "demo", author.keys)
    meanwhile.happens.append(lambda: author.sign("targets", "targets", author.targets(3)))
    refuses(late, "bins", "bin", author.targets(1), "ROLE_NOT_DELEGATED")


def refuses(author: Author, key: str, role: str, signed: dict[str, Any], reason: str) -> None:
    """The state moved under the payload: refused by the new one, and nothing is signed."""
    with tallied(Promise.DENY_BY_DEFAULT, "state changed while a payload was judged") as tally:
        tally.injected()
        with pytest.raises(KeydError) as refused:
            author.sign(key, role, signed)
        reasons = {refused.value.reason, *(f.reason for f in refused.value.findings)}
        assert reason in reasons
        version = signed["version"]
        assert (
            author.world.ledger.read(lambda view: view.reservation("demo", role, 0, version))
            is None
        )
