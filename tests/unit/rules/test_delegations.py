"""Reading key lists and scopes out of payloads; python-tuf is the judge of path matching."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import DelegatedRole, SuccinctRoles

from keyd.domain.delegations import (
    Delegates,
    Succinct,
    delegated_keys,
    delegates,
    key_materials,
    key_set,
    key_table,
    scope_of,
)
from keyd.domain.records import Delegation
from keyd.domain.trust import TOP_LEVEL, KeySet
from tests.unit.rules.world import (
    Signed,
    delegating,
    delegation,
    fingerprint,
    key,
    keyid,
    payload,
    root,
    snapshot,
    succinct,
    targets,
    timestamp,
)

ROOT = payload(root())
DELEGATING = payload(delegating(1, delegation("one", "d1", paths=["a/*"])))
BINS = payload(succinct(14, "bin"))


def test_key_set_of_a_root_role() -> None:
    assert key_set(ROOT, "targets", "root:1") == KeySet(
        "root:1", 1, {keyid("t1"): fingerprint("t1")}
    )
    assert key_set(ROOT, "projects", "root:1") is None


def test_key_set_of_delegated_roles() -> None:
    assert key_set(DELEGATING, "one", "targets:1") == KeySet(
        "targets:1", 1, {keyid("d1"): fingerprint("d1")}
    )
    assert key_set(DELEGATING, "two", "targets:1") is None
    assert key_set(BINS, "bin-0000", "targets:1") == key_set(BINS, "bin-3fff", "targets:1")
    assert key_set(BINS, "bin-4000", "targets:1") is None


@pytest.mark.parametrize("signed", [targets(), snapshot(), timestamp()])
def test_payloads_that_delegate_nothing(signed: Signed) -> None:
    assert delegates(payload(signed)) == Delegates()
    assert key_materials(payload(signed)) == {}
    assert key_set(payload(signed), "targets", "x") is None


def test_keys_that_do_not_resolve_or_decode_have_no_vote() -> None:
    signed = root()
    broken = {**key("r2"), "scheme": "rot13"}
    signed["keys"][keyid("r2")] = broken
    del signed["keys"][keyid("r3")]
    held = key_set(payload(signed), "root", "root:1")
    assert held is not None
    assert held.fingerprints == {keyid("r1"): fingerprint("r1")}
    assert held.missing(frozenset(map(fingerprint, ("r1", "r2", "r3")))) == 1
    assert key_table(payload(signed)).faults[keyid("r2")].reason == "KEY_SCHEME_UNKNOWN"


def test_delegates() -> None:
    assert delegates(ROOT) == Delegates(frozenset(TOP_LEVEL))
    assert delegates(DELEGATING) == Delegates(frozenset(["one"]))
    assert delegates(BINS) == Delegates(frozenset(), Succinct("bin", 14))
    assert delegates(ROOT).covers("root")
    assert not delegates(ROOT).covers("one")


@pytest.mark.parametrize(
    ("role", "covered"),
    [
        ("bin-0000", True),
        ("bin-3fff", True),
        ("bin-4000", False),
        ("bin-3FFF", False),
        ("bin-000", False),
        ("bin-00000", False),
        ("bin-+001", False),
        ("bin-\u0660\u0660\u0660\u0660", False),
        ("bin-", False),
        ("bin", False),
        ("other-0000", False),
        ("bin-bin-0000", False),
    ],
)
def test_bins_are_covered_without_being_enumerated(role: str, covered: bool) -> None:
    assert delegates(BINS).covers(role) is covered


@pytest.mark.parametrize("bit_length", [0, 33, -1, 2**40])
def test_impossible_bins_cover_nothing(bit_length: int) -> None:
    bins = payload(succinct(bit_length))
    assert delegates(bins) == Delegates()
    assert key_set(bins, "bin-0", "x") is None
    assert not scope_of(bins, "bin-0")("a")
    # Their keys still count as this payload's.
    assert key_materials(bins) == {fingerprint("d1"): keyid("d1")}


def test_names_that_stand_twice_mean_the_first() -> None:
    twice = payload(
        delegating(
            1,
            delegation("one", "d1", paths=["a"]),
            delegation("one", "d2", paths=["b"]),
            key_names=("d1", "d2"),
        )
    )
    assert key_set(twice, "one", "x") == KeySet("x", 1, {keyid("d1"): fingerprint("d1")})
    assert not scope_of(twice, "one")("b")


def test_key_materials() -> None:
    assert key_materials(ROOT) == {
        fingerprint(name): keyid(name) for name in ("r1", "r2", "r3", "t1", "s1", "ts1")
    }


def test_delegated_keys_name_bins_once() -> None:
    assert delegated_keys(DELEGATING) == (Delegation("one", fingerprint("d1")),)
    assert delegated_keys(BINS) == (Delegation("bin", fingerprint("d1"), 14),)
    assert set(delegated_keys(ROOT)) == {
        *(Delegation("root", fingerprint(name)) for name in ("r1", "r2", "r3")),
        Delegation("targets", fingerprint("t1")),
        Delegation("snapshot", fingerprint("s1")),
        Delegation("timestamp", fingerprint("ts1")),
    }
    signed = root()
    signed["keys"][keyid("t1")] = {**key("t1"), "scheme": "rot13"}
    assert "targets" not in {found.role for found in delegated_keys(payload(signed))}


def test_a_key_under_two_ids_is_one_material() -> None:
    signed = root()
    twin = {**key("r1"), "x-owner": "me"}
    signed["keys"]["00" * 32] = twin
    assert key_materials(payload(signed))[fingerprint("r1")] == "00" * 32


PARTS = st.text("ab*?[]!-.", min_size=0, max_size=4)
PATHS = st.lists(st.text("ab-.", min_size=0, max_size=4), min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@given(PATHS, st.lists(PATTERNS, max_size=3))
def test_paths_match_as_in_python_tuf(path: str, patterns: list[str]) -> None:
    role = DelegatedRole("one", [keyid("d1")], 1, False, paths=patterns)
    ours = payload(delegating(1, delegation("one", "d1", paths=patterns)))
    assert scope_of(ours, "one")(path) == role.is_delegated_path(path)


@given(st.text(max_size=8), st.sets(st.text("0123456789abcdef", min_size=1, max_size=2)))
def test_hash_prefixes_match_as_in_python_tuf(path: str, prefixes: set[str]) -> None:
    # The parser lets no surrogate through, so none reaches the rules.
    path = path.encode(errors="ignore").decode()
    role = DelegatedRole("one", [keyid("d1")], 1, False, path_hash_prefixes=list(prefixes))
    ours = payload(delegating(1, delegation("one", "d1", path_hash_prefixes=sorted(prefixes))))
    assert scope_of(ours, "one")(path) == role.is_delegated_path(path)


@given(st.text("abc/", max_size=8), st.integers(1, 32))
def test_bins_match_as_in_python_tuf(path: str, bit_length: int) -> None:
    theirs = SuccinctRoles([keyid("d1")], 1, bit_length, "bin").get_role_for_target(path)
    bins = Succinct("bin", bit_length)
    number = int(theirs.removeprefix("bin-"), 16)
    other = f"bin-{number ^ 1:0{bins.suffix_length}x}"
    assert bins.covers(other)
    assert not scope_of(payload(succinct(bit_length)), other)(path)
    assert bins.covers(theirs)
    assert scope_of(payload(succinct(bit_length)), theirs)(path)


def test_a_role_that_is_not_delegated_reaches_nothing() -> None:
    assert not scope_of(DELEGATING, "two")("a/b")
