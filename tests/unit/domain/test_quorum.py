"""Every set of approvals, threshold and group rule for up to six officers, against a model."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain.keys import Scheme
from keyd.domain.officers import (
    Officer,
    OfficerKey,
    OfficerKeyKind,
    OfficerKeyState,
    OfficerSet,
    OfficerState,
)
from keyd.domain.quorum import (
    QuorumRule,
    needs_outsider,
    rule_of_text,
    rule_text,
    rules_digest,
    tally,
    unreachable,
)


def key(number: int, state: OfficerKeyState = OfficerKeyState.ACTIVE) -> OfficerKey:
    return OfficerKey(Scheme.ED25519, b"key %d" % number, OfficerKeyKind.PKCS11, state)


def officers(count: int, in_qa: int = 0) -> OfficerSet:
    """`count` officers; the bits of `in_qa` say who belongs to qa."""
    return OfficerSet(
        tuple(
            Officer(
                f"o{n}",
                groups=frozenset({"qa"} if in_qa >> n & 1 else ()),
                keys=(key(10 * n), key(10 * n + 1)),
            )
            for n in range(count)
        )
    )


def named(count: int, bits: int) -> list[str]:
    return [f"o{n}" for n in range(count) if bits >> n & 1]


# The model knows numbers only: bits for persons, and counts of bits.
@pytest.mark.parametrize("count", range(7))
def test_every_subset_threshold_and_group_rule(count: int) -> None:
    everybody = (1 << count) - 1
    checked = 0
    for in_qa, threshold, wanted in product(
        (0, 1, 0b101 & everybody, everybody), range(count + 2), range(4)
    ):
        rule = QuorumRule("r", threshold, {"qa": wanted} if wanted else {})
        known = officers(count, in_qa)
        for approved in range(1 << count):
            found = tally(rule, known, approved=named(count, approved))
            enough = 0 < threshold <= approved.bit_count()
            from_qa = (approved & in_qa).bit_count() >= wanted
            assert found.satisfied == (enough and from_qa)
            assert found.counted == tuple(named(count, approved))
            checked += 1
    assert checked == 4 * (count + 2) * 4 * 2**count


@pytest.mark.parametrize("count", range(1, 6))
def test_every_rejection_and_exclusion(count: int) -> None:
    """Each officer has approved, rejected, is excluded, or has said nothing."""
    in_qa = 0b01011 & ((1 << count) - 1)
    known = officers(count, in_qa)
    for said in product("ARX-", repeat=count):
        bits = {each: sum(1 << n for n in range(count) if said[n] == each) for each in "ARX-"}
        for threshold, wanted in product(range(1, count + 1), range(3)):
            rule = QuorumRule("r", threshold, {"qa": wanted} if wanted else {})
            found = tally(
                rule,
                known,
                approved=named(count, bits["A"] | bits["X"]),
                rejected=named(count, bits["R"]),
                excluded=named(count, bits["X"]),
            )
            hopeful = bits["A"] | bits["-"]
            assert found.satisfied == _met(bits["A"], in_qa, threshold, wanted)
            assert found.reachable == _met(hopeful, in_qa, threshold, wanted)


def _met(persons: int, in_qa: int, threshold: int, wanted: int) -> bool:
    return persons.bit_count() >= threshold and (persons & in_qa).bit_count() >= wanted


@given(
    keys=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    approvals=st.lists(st.integers(0, 5), max_size=20),
    threshold=st.integers(1, 6),
)
def test_a_person_counts_once_however_many_keys(
    keys: list[int], approvals: list[int], threshold: int
) -> None:
    known = OfficerSet(
        tuple(
            Officer(f"o{n}", keys=tuple(key(100 * n + each) for each in range(number)))
            for n, number in enumerate(keys)
        )
    )
    persons = {each for each in approvals if each < len(keys)}
    found = tally(QuorumRule("r", threshold), known, approved=[f"o{n}" for n in approvals])
    assert found.satisfied == (len(persons) >= threshold)
    assert found.missing == max(0, threshold - len(persons))


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_proposer_never_counts(count: int, threshold: int, data: st.DataObject) -> None:
    proposer = data.draw(st.integers(0, count - 1))
    everybody = named(count, (1 << count) - 1)
    found = tally(
        QuorumRule("r", threshold), officers(count), approved=everybody, excluded=[f"o{proposer}"]
    )
    assert f"o{proposer}" not in found.counted
    assert found.satisfied == (count - 1 >= threshold)


@pytest.mark.parametrize("state", [OfficerKeyState.REPLACED, OfficerKeyState.COMPROMISED])
def test_who_has_no_active_key_does_not_count(state: OfficerKeyState) -> None:
    known = officers(2).with_officer(Officer("o1", keys=(key(10, state), key(11, state))))
    assert tally(QuorumRule("r", 1), known, approved=["o1"]).counted == ()
    assert unreachable([QuorumRule("r", 2)], known) == (QuorumRule("r", 2),)


def test_who_is_revoked_does_not_count() -> None:
    known = officers(2).with_officer(Officer("o1", keys=(key(10),), state=OfficerState.REVOKED))
    found = tally(QuorumRule("r", 2), known, approved=["o0", "o1"])
    assert (found.counted, found.missing, found.reachable) == (("o0",), 1, False)


def test_nobody_outside_the_officers_counts() -> None:
    found = tally(QuorumRule("r", 1), officers(2), approved=["stranger", ""])
    assert (found.counted, found.satisfied) == ((), False)


def test_the_digest_covers_all_of_a_rule_and_no_order() -> None:
    one, two = QuorumRule("one", 1), QuorumRule("two", 2, {"qa": 1})
    assert rules_digest([one, two]) == rules_digest([two, one])
    different = [
        [one],
        [QuorumRule("one", 2), two],
        [one, QuorumRule("two", 2)],
        [one, QuorumRule("two", 2, {"qa": 2})],
        [QuorumRule("uno", 1), two],
    ]
    assert len({rules_digest(each) for each in [[one, two], *different]}) == 6


def test_the_digest_of_officers_covers_all_that_counts() -> None:
    base = officers(3)
    changed = [
        base.with_officer(Officer("o0", keys=(key(0),))),
        base.with_officer(Officer("o0", groups=frozenset({"qa"}), keys=(key(0), key(1)))),
        base.with_officer(Officer("o0", principals=frozenset({"unix:a"}), keys=(key(0), key(1)))),
        base.with_officer(Officer("o0", keys=(key(0), key(1, OfficerKeyState.REPLACED)))),
        base.with_officer(Officer("o0", keys=(key(0), key(1)), state=OfficerState.REVOKED)),
        base.with_officer(Officer("o3", keys=(key(30),))),
    ]
    assert len({each.digest for each in [base, *changed]}) == 7


def test_the_rule_in_words() -> None:
    assert QuorumRule("r", 1).words() == "1 officer"
    assert QuorumRule("r", 3, {"qa": 1, "ops": 2}).words() == (
        "3 officers, at least 2 from ops, at least 1 from qa"
    )


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True)


@given(
    st.text(min_size=1, max_size=20), st.integers(1, 99), st.dictionaries(NAMES, st.integers(1, 9))
)
def test_rules_are_read_back_from_log_entries(
    name: str, threshold: int, groups: dict[str, int]
) -> None:
    rule = QuorumRule(name, threshold, groups)
    assert rule_of_text(rule_text(rule)) == rule


@pytest.mark.parametrize(
    "text", ["", "base", "base: 2 officer", "base: 2 officers, 1 from qa", "base: two officers"]
)
def test_other_texts_are_no_rules(text: str) -> None:
    with pytest.raises(ValueError, match=r"no rule reads|invalid literal"):
        rule_of_text(text)


@pytest.mark.parametrize(
    ("count", "threshold", "callers", "needed"),
    [
        # Three with 2 of 3: who is left must both approve, and neither can propose.
        (3, 2, 3, True),
        (3, 2, 1, True),
        (3, 2, 0, False),
        (4, 2, 4, False),
        (4, 3, 4, True),
        (5, 3, 5, False),
        (2, 1, 2, True),
    ],
)
def test_whether_a_loss_needs_a_proposer_from_outside(
    count: int, threshold: int, callers: int, needed: bool
) -> None:
    people = tuple(
        replace(each, principals=frozenset({f"unix:{each.name}"} if n < callers else ()))
        for n, each in enumerate(officers(count).officers)
    )
    assert needs_outsider(QuorumRule("base", threshold), OfficerSet(people)) is needed
