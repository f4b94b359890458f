"""Rules G1, G2 and G6: target files, and where a delegated role may put them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from keyd.domain.payload import Payload
from tests.unit.rules.world import (
    Signed,
    ask,
    delegating,
    delegation,
    payload,
    put,
    refusals,
    succinct,
    target,
    targets,
    view,
    warnings,
)

Delegator = tuple[str, Payload]

ENTRY = "/targets/a~1b.txt"
SHA256 = hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize(
    ("length", "hashes", "expected"),
    [
        (0, {"sha256": SHA256}, []),
        (-1, {"sha256": SHA256}, ["TARGET_LENGTH_INVALID"]),
        (7, {"sha384": "0a" * 48}, []),
        (7, {"sha512": "0a" * 64, "blake2b-256": "0a" * 32, "sha224": "0a" * 28}, []),
        (7, {"sha256": SHA256, "sha3_256": "0a" * 32}, ["TARGET_HASH_INVALID"]),
        (7, {"sha256": SHA256, "blake2b-256": "any"}, ["TARGET_HASH_INVALID"]),
        (7, {"blake2b-256": "0a" * 32}, ["TARGET_HASH_INVALID"]),
        (7, {}, ["TARGET_HASH_INVALID"]),
        (7, {"md5": "0a" * 16}, ["TARGET_HASH_INVALID"] * 2),
        (7, {"sha256": SHA256, "sha512": "0a" * 63}, ["TARGET_HASH_INVALID"]),
        (7, {"sha256": SHA256.upper()}, ["TARGET_HASH_INVALID"] * 2),
        (7, {"sha256": "\u0660" * 64}, ["TARGET_HASH_INVALID"] * 2),
    ],
)
def test_g1_length_and_hashes(length: int, hashes: dict[str, str], expected: Any) -> None:
    entry = {"length": length, "hashes": hashes}
    judgement = ask(targets(1, "a/b.txt"), view("targets"), bend=put(ENTRY, entry))
    assert refusals(judgement) == expected


def test_g1_points_at_the_hash() -> None:
    judgement = ask(targets(1, "a/b.txt"), view("targets"), bend=put(f"{ENTRY}/hashes/sha512", "0"))
    assert judgement.findings[0].pointer == "/targets/a~1b.txt/hashes/sha512"
    assert judgement.findings[0].malformed


@pytest.mark.parametrize("imported", [False, True])
def test_g1_imported_repositories_may_have_hashes_that_not_every_client_computes(
    imported: bool,
) -> None:
    """Each algorithm is told once: thousands of entries would crowd out all other warnings."""
    good, entries = {"sha256": SHA256}, targets(1, "a", "b", "c")
    entries["targets"]["a"]["hashes"] = {**good, "md5": "0a" * 16}
    entries["targets"]["b"]["hashes"] = {**good, "sha1": "0a" * 20, "md5": "0b" * 16}
    judgement = ask(entries, view("targets", imported=imported))
    expected = ["TARGET_HASH_INVALID"] * 2
    assert (warnings if imported else refusals)(judgement) == expected
    assert [found.pointer for found in judgement.findings] == [
        "/targets/a/hashes/md5",
        "/targets/b/hashes/sha1",
    ]
    assert "not every client can compute this hash" in judgement.findings[0].message


@pytest.mark.parametrize("hashes", [{"md5": "0a" * 16}, {"sha256": SHA256, "sha512": "0a"}])
def test_g1_imported_repositories_have_one_good_hash_and_no_bad_one(hashes: Signed) -> None:
    judgement = ask(
        targets(1, "a/b.txt"), view("targets", imported=True), bend=put(f"{ENTRY}/hashes", hashes)
    )
    assert refusals(judgement) == ["TARGET_HASH_INVALID"]


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "a//b", "a/", "..", "../a", "a/../b", "a/..", ".", "./a", "a/./b", "a\\b"],
)
def test_g2_unsafe_paths(path: str) -> None:
    assert refusals(ask(targets(1, path), view("targets"))) == ["TARGET_PATH_UNSAFE"]


@pytest.mark.parametrize("path", ["a", "a/b/c", "..a/b..", "a b/ä.txt", "...", ".hidden"])
def test_g2_safe_paths(path: str) -> None:
    assert refusals(ask(targets(1, path), view("targets"))) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{SHA256}.b.txt", ["VERSIONED_REFERENCE"]),
        (f"a/{SHA256}.b.txt", ["VERSIONED_REFERENCE"]),
        (f"{SHA256}", []),
        (f"{SHA256}/b.txt", []),
        (f"{'0a' * 32}.b.txt", []),
        ("1.b.txt", []),
    ],
)
def test_g6_paths_do_not_carry_their_own_hash(path: str, expected: Any) -> None:
    assert refusals(ask(targets(1, path), view("targets"))) == expected


def inside(
    path: str,
    *delegators: Delegator,
    ancestry: Mapping[str, tuple[Delegator, ...]] = MappingProxyType({}),
) -> list[str]:
    """What the rules say about `path` in role projects, given who delegates what."""
    about = view("projects", delegators=delegators, ancestry=ancestry)
    return refusals(ask(targets(1, path), about))


def top(*roles: Signed) -> Delegator:
    return ("targets", payload(delegating(1, *roles)))


@pytest.mark.parametrize(
    ("scope", "path", "covered"),
    [
        ({"paths": ["a/*"]}, "a/x", True),
        ({"paths": ["b", "a/*"]}, "a/x", True),
        ({"paths": ["a/*"]}, "a/x/y", False),
        ({"paths": ["a/*"]}, "b/x", False),
        ({"paths": ["*"]}, "a/x", False),
        ({"paths": ["a/?.txt"]}, "a/x.txt", True),
        ({"paths": ["A/*"]}, "a/x", False),
        ({"paths": []}, "a/x", False),
    ],
)
def test_g2_paths_of_a_delegated_role(scope: dict[str, Any], path: str, covered: bool) -> None:
    outcome = inside(path, top(delegation("projects", "d1", **scope)))
    assert outcome == ([] if covered else ["TARGET_OUTSIDE_DELEGATION"])


def test_g2_hash_prefixes() -> None:
    digest = hashlib.sha256(b"a/x").hexdigest()
    halves = ["01234567", "89abcdef"]
    mine = next(half for half in halves if digest[0] in half)
    other = next(half for half in halves if digest[0] not in half)
    assert inside("a/x", top(delegation("projects", "d1", path_hash_prefixes=list(mine)))) == []
    outcome = inside("a/x", top(delegation("projects", "d1", path_hash_prefixes=list(other))))
    assert outcome == ["TARGET_OUTSIDE_DELEGATION"]


def test_g2_succinct_bins() -> None:
    bin_number = hashlib.sha256(b"a/x").digest()[0] >> 4
    delegator = ("targets", payload(succinct(4, "bin")))
    about = view(f"bin-{bin_number:x}", delegators=(delegator,))
    assert refusals(ask(targets(1, "a/x"), about)) == []
    about = view(f"bin-{bin_number ^ 1:x}", delegators=(delegator,))
    assert refusals(ask(targets(1, "a/x"), about)) == ["TARGET_OUTSIDE_DELEGATION"]


def test_g2_every_delegation_of_the_chain_counts() -> None:
    above = top(delegation("teams", "d1", paths=["a/*", "b/*"]))
    teams = ("teams", payload(delegating(1, delegation("projects", "d1", paths=["a/*", "c/*"]))))
    ancestry = {"teams": (above,)}
    assert inside("a/x", teams, ancestry=ancestry) == []
    assert inside("b/x", teams, ancestry=ancestry) == ["TARGET_OUTSIDE_DELEGATION"]
    assert inside("c/x", teams, ancestry=ancestry) == ["TARGET_OUTSIDE_DELEGATION"]
    # What nobody told about the way up is not inside.
    assert inside("a/x", teams) == ["TARGET_OUTSIDE_DELEGATION"]


def test_g2_one_of_several_chains_is_enough() -> None:
    narrow = ("teams", payload(delegating(1, delegation("projects", "d1", paths=["z"]))))
    wide = top(delegation("projects", "d1", paths=["a/*"]))
    assert inside("a/x", narrow, wide) == []
    assert inside("a/x", wide, narrow) == []


def test_g2_circles_end() -> None:
    one = ("one", payload(delegating(1, delegation("projects", "d1", paths=["a/*"]))))
    two = ("two", payload(delegating(1, delegation("one", "d1", paths=["a/*"]))))
    back = ("one", payload(delegating(1, delegation("two", "d1", paths=["a/*"]))))
    itself = ("projects", payload(delegating(1, delegation("projects", "d1", paths=["a/*"]))))
    outcome = inside("a/x", one, itself, ancestry={"one": (two,), "two": (back,)})
    assert outcome == ["TARGET_OUTSIDE_DELEGATION"]


def test_g2_roles_that_all_delegate_each_other_cost_no_more_than_their_number() -> None:
    names = [f"role-{number}" for number in range(30)]
    everybody = payload(delegating(1, *(delegation(n, "d1", paths=["a"]) for n in names)))
    ancestry = {name: tuple((above, everybody) for above in names) for name in names}
    delegators = tuple((name, everybody) for name in names)
    about = view("role-0", delegators=delegators, ancestry=ancestry)
    assert refusals(ask(targets(1, "a"), about)) == ["TARGET_OUTSIDE_DELEGATION"]


def test_top_level_targets_may_list_any_path() -> None:
    assert refusals(ask(targets(1, "any/where"), view("targets"))) == []


def test_a_custom_member_changes_nothing() -> None:
    entry = {**target(), "custom": {"anything": [1, {"at": "all"}]}}
    assert refusals(ask(targets(1, "a/b.txt"), view("targets"), bend=put(ENTRY, entry))) == []


@pytest.mark.parametrize(
    ("patterns", "expected"), [(100, []), (20_000, ["TARGET_OUTSIDE_DELEGATION"])]
)
def test_g2_costs_no_more_than_a_moment(patterns: int, expected: list[str]) -> None:
    """Whoever writes the delegation may choose patterns that fit nothing and take for ever."""
    paths = [f"*{number}" for number in range(patterns)]
    above = payload(delegating(1, delegation("team", "d1", paths=paths)))
    judgement = ask(
        targets(1, *(f"{number}0" for number in range(100))),
        view("team", delegators=(("targets", above),)),
    )
    assert refusals(judgement) == expected
