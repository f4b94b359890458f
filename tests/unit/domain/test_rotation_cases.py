"""Chains of roots that clients take or refuse, told by what the plan asks for and who signed.

The cases are those that other projects test or stumbled over: python-tuf's table of key rotations,
rust-tuf's issue 42 (either threshold unmet), tuf-on-ci's issue 505 (same people, new tokens). Each
is judged by keyd and by python-tuf's client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from keyd.domain import metadata_file
from keyd.domain.rotation.explaining import explain
from keyd.rehearsal.successor import meet
from tests.root_versions import RootVersion, root_bytes, root_file, signer


@dataclass(frozen=True)
class Chain:
    """Roots from 1 on; the last one is taken or not, all others are."""

    roots: Sequence[RootVersion]
    taken: bool = True


def chain(*roots: tuple[Sequence[int], int, Sequence[int]], taken: bool = True) -> Chain:
    """Roots as (keys, threshold, signers)."""
    return Chain([RootVersion(*root) for root in roots], taken)


FIVE = (0, 1, 2, 3, 4)
FIVE_OTHERS = (5, 6, 7, 8, 9)
ONE_OF_FIVE_NEW = (0, 1, 3, 4, 5)
CHAINS: Mapping[str, Chain] = {
    # python-tuf: the key of a threshold of one.
    "one key for another": chain(((1,), 1, (1,)), ((2,), 1, (2, 1)), ((2,), 1, (2,))),
    "strangers' signatures do no harm": chain(
        ((1,), 1, (3, 1, 4)), ((2,), 1, (3, 2, 1, 4)), ((2,), 1, (3, 2, 4))
    ),
    "the old key did not sign": chain(((1,), 1, (1,)), ((2,), 1, (2, 3, 4)), taken=False),
    "the new key did not sign": chain(((1,), 1, (1,)), ((2,), 1, (1, 3, 4)), taken=False),
    # python-tuf: three of five.
    "any three of five": chain(
        (FIVE, 3, (0, 2, 4)), (FIVE, 3, (0, 4, 1)), (FIVE, 3, (0, 1, 3)), (FIVE, 3, (0, 1, 3))
    ),
    "three that stay sign for both lists": chain(
        (FIVE, 3, (0, 2, 4)), (ONE_OF_FIVE_NEW, 3, (0, 4, 1))
    ),
    "the key that left does not count as new": chain(
        (FIVE, 3, (0, 2, 4)), (ONE_OF_FIVE_NEW, 3, (0, 2, 4)), taken=False
    ),
    "the key that came does not count as old": chain(
        (FIVE, 3, (0, 2, 4)), (ONE_OF_FIVE_NEW, 3, (0, 4, 5)), taken=False
    ),
    "once both have signed the new one goes on": chain(
        (FIVE, 3, (0, 2, 4)), (ONE_OF_FIVE_NEW, 3, (0, 2, 4, 5)), (ONE_OF_FIVE_NEW, 3, (0, 4, 5))
    ),
    "a whole list for another": chain(
        (FIVE, 3, (0, 2, 4)),
        (FIVE_OTHERS, 3, (0, 2, 4, 5, 6, 7)),
        (FIVE_OTHERS, 3, (5, 6, 7)),
    ),
    # python-tuf: thresholds.
    "a higher threshold": chain(((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (1, 2))),
    "the higher threshold is not reached": chain(
        ((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (2,)), taken=False
    ),
    "a lower threshold, by the higher one": chain(
        ((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1, 2)), ((1, 2, 3), 1, (1,))
    ),
    "a lower threshold, by the lower one": chain(
        ((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1,)), taken=False
    ),
    "a second key with a second signature": chain(((1,), 1, (1,)), ((1, 2), 2, (1, 2))),
    # rust-tuf, issue 42: three of three.
    "rust-tuf 42: one old signature short": chain(
        ((1, 2, 3), 3, (1, 2, 3)), ((4, 5, 6), 3, (1, 2, 4, 5, 6)), taken=False
    ),
    "rust-tuf 42: one new signature short": chain(
        ((1, 2, 3), 3, (1, 2, 3)), ((4, 5, 6), 3, (1, 2, 3, 5, 6)), taken=False
    ),
    "rust-tuf 42: signed by the old list alone": chain(
        ((1, 2, 3), 3, (1, 2, 3)), ((1, 2, 4), 3, (1, 2, 3)), taken=False
    ),
    "rust-tuf 42: signed by the new list alone": chain(
        ((1, 2, 3), 3, (1, 2, 3)), ((1, 2, 4), 3, (1, 2, 4)), taken=False
    ),
    "rust-tuf 42: both lists with different thresholds": chain(
        ((1, 2, 3), 3, (1, 2, 3)), ((3, 4, 5), 2, (1, 2, 3, 4, 5))
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_goes_as_far_as_the_plans_are_met(name: str) -> None:
    wanted = CHAINS[name]
    last = len(wanted.roots)
    for version, root in enumerate(wanted.roots[1:], start=2):
        before = wanted.roots[version - 2]
        taken = wanted.taken or version < last
        found = explain(root_file(version - 1, before), root_file(version, root), "demo")
        assert (not any(count.missing for count in found.counts)) is taken
        asked = [(n.which, n.threshold, len(n.keys)) for n in found.plan.needs]
        assert asked == [
            ("old", before.threshold, len(before.keys)),
            ("new", root.threshold, len(root.keys)),
        ]
        old, new = root_bytes(version - 1, before), root_bytes(version, root)
        assert meet((version - 1, old), (version, new)).took is taken


MEMBERS = {1: "ann", 2: "ben", 3: "cay", 4: "ann", 5: "ben", 6: "cay"}


@pytest.mark.parametrize(
    ("signed_by", "taken"),
    [((4, 5), False), ((1, 2), False), ((1, 2, 4, 5), True), ((1, 2, 5, 6), True)],
    ids=["new tokens only", "old tokens only", "two people with both", "three people"],
)
def test_tuf_on_ci_505_the_same_people_with_new_tokens(
    signed_by: tuple[int, ...], taken: bool
) -> None:
    """All members stay and change their tokens: who asks each person once is short of one list."""
    first = RootVersion((1, 2, 3), 2, (1, 2), owners=MEMBERS)
    second = RootVersion((4, 5, 6), 2, signed_by, owners=MEMBERS)
    found = explain(root_file(1, first), root_file(2, second), "demo")
    told = [f.message.split()[0] for f in found.findings if f.reason == "HOLDER_SIGNS_TWICE"]
    assert told == ["ann", "ben", "cay"]
    assert [need.people for need in found.plan.needs] == [("ann", "ben", "cay")] * 2
    assert (not any(count.missing for count in found.counts)) is taken
    assert meet((1, root_bytes(1, first)), (2, root_bytes(2, second))).took is taken


@dataclass(frozen=True)
class RoleCase:
    """The new list of a role that is not root, and who signed the role's metadata."""

    keys: Sequence[int]
    threshold: int
    signed_by: Sequence[int]
    taken: bool = True


ROLE_CASES: Mapping[str, RoleCase] = {
    # python-tuf: the other top-level roles, which only their new list signs.
    "one key for another": RoleCase((2,), 1, (2,)),
    "strangers' signatures do no harm": RoleCase((1,), 1, (3, 1, 4)),
    "the new key did not sign": RoleCase((2,), 1, (1, 3, 4), taken=False),
    "a signature of a key that is not listed": RoleCase(ONE_OF_FIVE_NEW, 3, (0, 2, 4), taken=False),
    "a signature is missing": RoleCase(ONE_OF_FIVE_NEW, 3, (0, 4), taken=False),
    **{
        f"three of five: {signers}": RoleCase(FIVE, 3, signers)
        for signers in ((0, 2, 4), (0, 4, 1), (0, 1, 3), (1, 2, 3), (2, 3, 4))
    },
}


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
@pytest.mark.parametrize("name", ROLE_CASES)
def test_other_roles_are_signed_by_their_new_list(name: str, role: str) -> None:
    case = ROLE_CASES[name]
    old = RootVersion((90, 93), 1, (90,))
    new = RootVersion((90, 93), 1, (90,), others={role: (case.keys, case.threshold)})
    made = explain(root_file(1, old), root_file(2, new), "demo").plan
    (need,) = [n for n in made.needs if made.steps[n.step].subject == role]
    listed = {signer(number).public_key.keyid: f"{number}" for number in case.keys}
    assert (need.which, need.threshold, len(need.keys)) == ("", case.threshold, len(listed))
    signed = {number for number in case.signed_by if f"{number}" in listed.values()}
    assert (len(signed) >= need.threshold) is case.taken

    metadata: Metadata[Timestamp] = Metadata(Timestamp())
    for number in case.signed_by:
        metadata.sign(signer(number), append=True)
    root: Root = Metadata[Root].from_bytes(root_bytes(2, new)).signed
    verdict = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    assert bool(verdict) is case.taken


def test_a_signature_under_another_id_counts_for_no_client() -> None:
    """One key under two ids must stand in the file twice; what is not listed by that id is mute."""
    first, second = RootVersion((1, 2, 3), 2, (1, 2)), RootVersion((1, 2, 3), 2, (1, 2))
    file = root_file(2, second)
    renamed = [("ab" * 32, sig) for _, sig in file.signatures]
    content = metadata_file.write(file.payload, renamed)
    found = explain(root_file(1, first), metadata_file.read(content), "demo")
    assert [count.missing for count in found.counts] == [2, 2]
    assert not meet((1, root_bytes(1, first)), (2, content)).took
