"""Rules G3 to G5 on delegations, and the keys they hand out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.rules.world import (
    Bend,
    Signed,
    ask,
    delegating,
    delegation,
    drop,
    payload,
    put,
    refusals,
    succinct,
    targets,
    view,
    warnings,
)

ROLES = "/delegations/roles"


def two(**changes: Any) -> Signed:
    return delegating(
        1, delegation("one", "d1", paths=["a/*"]), delegation("two", "d1", paths=["b/*"], **changes)
    )


def test_honest_delegations_pass() -> None:
    assert ask(two(), view("targets")).findings == ()
    assert ask(two(terminating=True), view("targets")).findings == ()
    assert ask(succinct(), view("targets")).findings == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("packages.example.org", []),
        ("one", ["DELEGATION_NAME_INVALID"]),
        ("root", ["DELEGATION_NAME_INVALID"]),
        ("targets", ["DELEGATION_NAME_INVALID"]),
        ("timestamp", ["DELEGATION_NAME_INVALID"]),
        ("../../path", ["ROLE_NAME_UNSAFE"]),
        ("🍺/30", ["ROLE_NAME_UNSAFE"]),
        ("🍺", []),
        ("..", ["ROLE_NAME_UNSAFE"]),
        ("", ["ROLE_NAME_UNSAFE"]),
    ],
)
def test_g3_g5_names(name: str, expected: Any) -> None:
    judgement = ask(two(), view("targets"), bend=put(f"{ROLES}/1/name", name))
    # A delegation called root is also measured against root's floors.
    assert refusals(judgement)[:1] == expected
    if expected:
        assert judgement.findings[0].pointer == f"{ROLES}/1/name"


@pytest.mark.parametrize(
    ("signed", "pointer"),
    [(two(), f"{ROLES}/1/name"), (succinct(), "/delegations/succinct_roles/name_prefix")],
)
@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("way", ["delegated_elsewhere", "brought_back"])
def test_g3_no_role_has_two_masters(signed: Signed, pointer: str, imported: bool, way: str) -> None:
    taken = {way: {"two": "mallory", "bin": "mallory"}}
    judgement = ask(signed, view("targets", imported=imported, **taken))
    expected = ["DELEGATION_NAME_INVALID"]
    assert (warnings if imported else refusals)(judgement) == expected
    assert judgement.findings[0].pointer == pointer
    assert not judgement.findings[0].malformed


@pytest.mark.parametrize(
    ("bend", "refused", "warned"),
    [
        (drop(f"{ROLES}/1/paths"), ["DELEGATION_SCOPE_INVALID"], []),
        (
            put(f"{ROLES}/1/path_hash_prefixes", list("0123456789abcdef")),
            ["DELEGATION_SCOPE_INVALID"],
            [],
        ),
        (put(f"{ROLES}/1/paths", []), [], ["DELEGATION_SCOPE_EMPTY"]),
    ],
)
def test_g3_scope(bend: Bend, refused: list[str], warned: list[str]) -> None:
    judgement = ask(two(), view("targets"), bend=bend)
    assert (refusals(judgement), warnings(judgement)) == (refused, warned)


def test_g3_roles_and_succinct_roles_exclude_each_other() -> None:
    judgement = ask(succinct(), view("targets"), bend=put("/delegations/roles", []))
    assert refusals(judgement) == ["DELEGATION_SCOPE_INVALID"]
    assert judgement.findings[0].pointer == "/delegations"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("abc", "abc", []),
        ("abc", "ac", []),
        ("abc", "xaybzc", []),
        ("", "ab", []),
        ("ab", "", []),
        ("ab", "ba", ["DELEGATION_ORDER_CHANGED"]),
        ("abc", "cb", ["DELEGATION_ORDER_CHANGED"]),
        ("abc", "acxb", ["DELEGATION_ORDER_CHANGED"]),
    ],
)
def test_g3_the_order_of_delegations_is_kept(before: Any, after: Any, expected: Any) -> None:
    def build(version: int, names: str) -> Signed:
        return delegating(
            version,
            *(delegation(name, "d1", paths=[name]) for name in names),
            key_names=("d1",) if names else (),
        )

    about = view("targets", high_water=1, trusted=payload(build(1, before)))
    assert refusals(ask(build(2, after), about)) == expected


def test_g3_order_starts_with_the_first_delegations() -> None:
    about = view("targets", high_water=1, trusted=payload(targets(1)))
    assert refusals(ask({**two(), "version": 2}, about)) == []


def bins(*groups: Any) -> Signed:
    return delegating(
        1,
        *(
            delegation(f"bin-{number}", "d1", path_hash_prefixes=list(group))
            for number, group in enumerate(groups)
        ),
    )


@pytest.mark.parametrize(
    ("groups", "complete"),
    [
        (["0123456789abcdef"], True),
        (["01234567", "89abcdef"], True),
        (["01234567", "89abcde"], False),
        (["01234567", "789abcdef"], False),
        (["0123456", "789abcde", "e"], False),
        (["0123456789ABCDEF"], False),
        (["0123456789abcdeg"], False),
        ([["0", "1", "23"], "456789abcdef"], False),
        ([[f"{number:02x}" for number in range(256)]], True),
        ([[f"{number:02x}" for number in range(255)]], False),
        ([[]], False),
        ([["", "0"]], False),
        ([[""]], False),
        ([["0" * 65]], False),
    ],
)
def test_g4_bins(groups: list[Any], complete: bool) -> None:
    outcome = refusals(ask(bins(*groups), view("targets")))
    assert outcome == ([] if complete else ["HASH_BINS_INCOMPLETE"])


@pytest.mark.parametrize(
    ("bit_length", "expected"),
    [(1, []), (32, []), (0, ["SUCCINCT_ROLES_INVALID"]), (33, ["SUCCINCT_ROLES_INVALID"])],
)
def test_g4_succinct_roles(bit_length: int, expected: Any) -> None:
    assert refusals(ask(succinct(bit_length), view("targets"))) == expected


@pytest.mark.parametrize(
    ("prefix", "expected"), [("a/b", ["ROLE_NAME_UNSAFE"]), ("b" * 231, ["ROLE_NAME_UNSAFE"])]
)
def test_g5_prefix_of_succinct_roles(prefix: str, expected: Any) -> None:
    assert refusals(ask(succinct(4, prefix), view("targets"))) == expected


@pytest.mark.parametrize("signed", [two(), succinct()], ids=["roles", "succinct"])
def test_keys_of_delegations_pass_r3_to_r6(signed: Signed) -> None:
    where = (
        "/delegations/succinct_roles"
        if "succinct_roles" in signed["delegations"]
        else (f"{ROLES}/0")
    )
    judgement = ask(signed, view("targets"), bend=put(f"{where}/threshold", 2))
    assert refusals(judgement) == ["THRESHOLD_ABOVE_KEYS"]
    assert judgement.findings[0].pointer == f"{where}/threshold"
