"""Verification asks whose key lists a version needed, not only whether the lists named are real."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyd.domain import canonical, public_keys
from keyd.domain.keys import KeySpec, Scheme
from keyd.services.imports import import_metadata
from keyd.services.registration import register
from tests.authors import Signed, Writer
from tests.fakes import new_private_key, public_der, sign_with
from tests.ledgers import Home
from tests.used_ledger import tamper, verify
from tests.worlds import ADMIN, SIGNER, open_world

Lists = list[list[Any]]
_ROW = "repository = 'demo' AND role = ? AND version = ? AND state = 'ACCEPTED'"


def lists_of(connection: sqlite3.Connection, role: str, version: int) -> Lists:
    found = f"SELECT required FROM reservations WHERE {_ROW}"
    lists: Lists = json.loads(connection.execute(found, (role, version)).fetchone()[0])
    return lists


def edit(role: str, version: int, lists: Lists) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        done = connection.execute(
            f"UPDATE reservations SET required = ? WHERE {_ROW}",
            (json.dumps(lists), role, version),
        )
        assert done.rowcount == 1

    return change


def objections(home: Home, role: str, version: int, lists: Lists) -> list[str]:
    tamper(home, edit(role, version, lists))
    return [flaw.what for flaw in verify(home).flaws]


def recorded(home: Home, role: str, version: int) -> Lists:
    with sqlite3.connect(home.database) as connection:
        return lists_of(connection, role, version)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_root_without_one_of_its_two_lists_is_found(used_copy: Home, gone: int) -> None:
    lists = recorded(used_copy, "root", 2)
    assert [each[0] for each in lists] == ["root:1", "root:2"]
    del lists[gone]
    assert objections(used_copy, "root", 2, lists) == ["a key list that it needs is missing"]


def test_a_root_that_skips_the_root_before_it_is_found(used_copy: Home) -> None:
    """By the intended keys of the first root: they may be long gone from the roots."""
    first, lists = recorded(used_copy, "root", 1), recorded(used_copy, "root", 3)
    assert first[0][0] == "bootstrap"
    assert objections(used_copy, "root", 3, [first[0], lists[1]]) == [
        "a key list that it needs is missing"
    ]


def test_the_list_of_a_root_that_was_replaced_is_found(used_copy: Home) -> None:
    old = recorded(used_copy, "timestamp", 1)
    assert [each[0] for each in old] == ["root:1"]
    newest = recorded(used_copy, "timestamp", 10)[0][0]
    assert objections(used_copy, "timestamp", 10, old) == [
        f"it was judged by root:1, and {newest} was trusted by then"
    ]


def test_the_intended_keys_of_the_first_root_are_nobody_elses_list(used_copy: Home) -> None:
    first = recorded(used_copy, "root", 1)[:1]
    whats = objections(used_copy, "timestamp", 10, first)
    assert "it was judged by other key lists than those of its delegators" in whats


def delegated_twice(base: Path) -> Home:
    """keyd refuses to sign that, but published metadata may have it."""
    world, scheme = open_world(base), Scheme.ED25519
    names = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp", "one", "two")
    private = {name: new_private_key(KeySpec(scheme)) for name in names}

    def tuf_key(name: str) -> tuple[str, Signed]:
        return public_keys.tuf_key(public_der(private[name]), scheme)

    def file(signed: Signed, *signers: str) -> bytes:
        raw = canonical.encode(signed)
        signatures = [
            {"keyid": tuf_key(name)[0], "sig": sign_with(private[name], scheme, raw).hex()}
            for name in signers
        ]
        return json.dumps({"signed": signed, "signatures": signatures}).encode()

    writer = Writer(world.clock.now, tuf_key)
    root = file(writer.root(1), "root-1", "root-2")
    register(world, ADMIN, name="demo", root_files=[root], development=False)
    top = writer.delegating(1, one=(1, ["one"]), two=(1, ["two"]))
    files = [
        ("targets", file(top, "targets")),
        ("one", file(writer.delegating(1, two=(1, ["two"])), "one")),
        ("two", file(writer.targets(1), "two")),
    ]
    done = import_metadata(world, SIGNER, repository="demo", files=files)
    assert all(one.recorded for one in done), done
    world.ledger.close()
    return Home(base)


def test_a_delegator_that_was_not_asked_is_found(tmp_path: Path) -> None:
    home = delegated_twice(tmp_path)
    assert verify(home).flaws == []
    lists = recorded(home, "two", 1)
    assert sorted(each[0] for each in lists) == ["one:1", "targets:1"]
    assert objections(home, "two", 1, lists[:1]) == [
        f"{lists[1][0]} lists keys for it, which it was not judged by"
    ]
