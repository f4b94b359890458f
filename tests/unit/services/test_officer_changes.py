"""Officers come and go, and there is always a way on, or a refusal beforehand."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyd.domain.officers import OfficerKeyKind, OfficerKeyState, OfficerState
from keyd.domain.operations import ChangeOfficer, Operation, SetBaseRule, SucceedOfficer
from keyd.domain.quorum import BASE, QuorumRule, unreachable
from keyd.errors import KeydError
from keyd.services import proposals
from keyd.services.world import World
from tests.officers import Person, approve, carry_out, enrol, execute, person, propose, reject
from tests.worlds import ADMIN, make_key, open_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def reason(call: object, *args: object, **kwargs: object) -> str:
    assert callable(call)
    with pytest.raises(KeydError) as caught:
        call(*args, **kwargs)
    return caught.value.reason


def revoked(who: Person) -> ChangeOfficer:
    gone = replace(who.officer, state=OfficerState.REVOKED)
    return ChangeOfficer.to(gone, who.officer)


def rekeyed(who: Person, new: Person, old: OfficerKeyState) -> ChangeOfficer:
    keys = (replace(who.key, state=old), new.key)
    return ChangeOfficer.to(replace(who.officer, keys=keys), who.officer)


# --- genesis --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "threshold", "expected"),
    [
        (3, 1, "BASE_RULE_TOO_LOW"),
        (3, 0, "BASE_RULE_TOO_LOW"),
        (2, 2, "QUORUM_WITHOUT_RESERVE"),
        (2, 3, "QUORUM_UNREACHABLE"),
    ],
)
def test_first_officers_without_a_reserve_are_refused(
    world: World, count: int, threshold: int, expected: str
) -> None:
    people = [person(f"o{n}") for n in range(count)]
    assert reason(enrol, world, *people, threshold=threshold) == expected
    assert not world.ledger.read(lambda view: view.officers().officers)


def test_there_is_one_genesis(world: World) -> None:
    people = [person(f"o{n}") for n in range(3)]
    enrol(world, *people)
    assert reason(enrol, world, *people) == "OFFICERS_EXIST"


def test_what_signs_does_not_approve_and_what_approves_does_not_sign(world: World) -> None:
    key = make_key(world, "signs")
    ann, ben, cat = (person(name) for name in ("ann", "ben", "cat"))
    signer = replace(ann.key, public_der=key.public_der, scheme=key.scheme)
    enrol(world, ann, ben, cat)
    both = replace(ann.officer, keys=(ann.key, signer))
    shown = approve(world, propose(world, ChangeOfficer.to(both, ann.officer)), ben, cat)
    executing = (execute, world, ADMIN, shown.proposal.name)
    assert reason(*executing) == "OFFICER_KEY_SIGNS_METADATA"


def test_production_takes_no_key_files(world: World) -> None:
    dan = person("dan")
    people = [person(name) for name in ("ann", "ben", "cat")]
    enrol(world, *people)
    file = replace(dan.officer, keys=(replace(dan.key, kind=OfficerKeyKind.FILE),))
    shown = approve(world, propose(world, ChangeOfficer.to(file, None)), *people[:2])
    executing = (execute, world, ADMIN, shown.proposal.name)
    assert reason(*executing) == "OFFICER_KEY_IN_FILE"


# --- three officers, two of whom must agree -------------------------------------------------------


def test_one_lost_one_replaced_one_compromised(world: World) -> None:
    """Each mishap is mended by the others, and what would be the end is refused beforehand."""
    ann, ben, cat = (person(name) for name in ("ann", "ben", "cat"))
    enrol(world, ann, ben, cat)
    # Ann is lost. To drop her would leave two for a rule of two: refused, and nothing is used up.
    shown = approve(world, propose(world, revoked(ann)), ben, cat)
    executing = (execute, world, ADMIN, shown.proposal.name)
    assert reason(*executing) == "QUORUM_WITHOUT_RESERVE"
    proposals.cancel(world, ADMIN, shown.proposal.name)
    dan = person("dan")
    carry_out(world, ChangeOfficer.to(dan.officer, None), ben, cat)
    carry_out(world, revoked(ann), ben, cat)
    # Ben gets another token.
    new_ben = ben.with_new_key()
    carry_out(world, rekeyed(ben, new_ben, OfficerKeyState.REPLACED), cat, dan)
    # Cat's key is stolen. The thief cannot hinder the change, which is about her.
    new_cat = cat.with_new_key()
    theft = propose(world, rekeyed(cat, new_cat, OfficerKeyState.COMPROMISED))
    assert reason(reject, world, theft, cat) == "OFFICER_CONCERNED"
    approve(world, theft, new_ben, dan)
    execute(world, ADMIN, theft.proposal.name)
    shown = propose(world, SetBaseRule(2))
    assert reason(approve, world, shown, cat) == "OFFICER_KEY_UNKNOWN"
    assert approve(world, shown, new_cat, dan).standing.approved
    # Nobody comes back under their old name.
    back = replace(ann.officer, state=OfficerState.ENROLLED)
    gone = replace(ann.officer, state=OfficerState.REVOKED)
    shown = approve(world, propose(world, ChangeOfficer.to(back, gone)), new_cat, dan)
    assert reason(execute, world, ADMIN, shown.proposal.name) == "OFFICER_REVOKED"


def succession(goes: Person, comes: Person) -> SucceedOfficer:
    leaving = revoked(goes)
    return SucceedOfficer(
        leaving.officer, leaving.before, ChangeOfficer.to(comes.officer, None).officer
    )


def test_one_approval_lets_another_take_a_place(world: World) -> None:
    """Where to revoke alone would leave too few, and whoever goes or comes has no say."""
    ann, ben, cat, dan = (person(name) for name in ("ann", "ben", "cat", "dan"))
    enrol(world, ann, ben, cat)
    shown = propose(world, succession(cat, dan))
    assert reason(approve, world, shown, cat) == "OFFICER_CONCERNED"
    assert reason(approve, world, shown, dan) == "OFFICER_CONCERNED"
    approve(world, shown, ann, ben)
    execute(world, ADMIN, shown.proposal.name)
    able = world.ledger.read(lambda view: view.officers().able)
    assert {each.name for each in able} == {"ann", "ben", "dan"}
    assert approve(world, propose(world, SetBaseRule(2)), ann, dan).standing.approved


def test_a_succession_is_one_who_goes_and_one_who_comes(world: World) -> None:
    ann, ben, cat, dan = (person(name) for name in ("ann", "ben", "cat", "dan"))
    enrol(world, ann, ben, cat)
    good = succession(cat, dan)
    nobody_goes = replace(good, officer=ChangeOfficer.to(cat.officer, None).officer)
    stranger = succession(person("eve"), dan)
    for wrong, expected in (
        (nobody_goes, "OFFICER_INVALID"),
        (replace(good, successor=good.officer), "OFFICER_INVALID"),
        (replace(stranger, before=""), "OFFICER_INVALID"),
        (stranger, "OFFICER_CHANGED"),
        (replace(good, before="0" * 64), "OFFICER_CHANGED"),
    ):
        shown = approve(world, propose(world, wrong), ann, ben)
        assert reason(execute, world, ADMIN, shown.proposal.name) == expected
    able = world.ledger.read(lambda view: view.officers().able)
    assert {each.name for each in able} == {"ann", "ben", "cat"}


def test_a_proposal_that_too_few_could_approve_is_refused(world: World) -> None:
    people = [person(name) for name in ("ann", "ben", "cat")]
    people[0] = replace(people[0], principals=frozenset({ADMIN.principal}))
    enrol(world, *people)
    assert reason(propose, world, revoked(people[1])) == "QUORUM_UNREACHABLE"


# --- any order of mishaps -------------------------------------------------------------------------


BEFOREHAND = {"QUORUM_WITHOUT_RESERVE", "QUORUM_UNREACHABLE", "BASE_RULE_TOO_LOW"}


class Changes(RuleBasedStateMachine):
    """Officers are proposed, changed and lost at random; one person may be out of reach.

    The promise: whoever of the officers is lost, the others can still change officers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.world = open_world(self.directory)
        people = [person(f"o{n}") for n in range(3)]
        enrol(self.world, *people)
        self.people = {each.name: each for each in people}
        self.base = 2
        self.born = 3

    def teardown(self) -> None:
        self.world.ledger.close()
        shutil.rmtree(self.directory)

    def attempt(self, operation: Operation, about: str = "") -> bool:
        """Everybody who counts agrees; whether the daemon did it."""
        voters = [each for name, each in self.people.items() if name != about][: self.base]
        try:
            carry_out(self.world, operation, *voters)
        except KeydError as error:
            if error.reason not in BEFOREHAND:
                raise
            for left in self.world.ledger.read(lambda view: view.open_proposals()):
                proposals.cancel(self.world, ADMIN, left.name)
            return False
        return True

    @rule()
    @precondition(lambda self: len(self.people) < 6)
    def enrol(self) -> None:
        new = person(f"o{self.born}")
        self.born += 1
        assert self.attempt(ChangeOfficer.to(new.officer, None))
        self.people[new.name] = new

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.people)))
        known = self.world.ledger.read(lambda view: view.officers().get(name))
        assert known is not None
        gone = ChangeOfficer.to(replace(known, state=OfficerState.REVOKED), known)
        done = self.attempt(gone, name)
        assert done == (len(self.people) - 1 > self.base)
        if done:
            del self.people[name]

    @rule(data=st.data(), state=st.sampled_from(["REPLACED", "COMPROMISED"]))
    def rekey(self, data: st.DataObject, state: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.people)))
        known = self.world.ledger.read(lambda view: view.officers().get(name))
        assert known is not None
        new = self.people[name].with_new_key()
        old = [replace(key, state=OfficerKeyState(state)) for key in known.keys]
        changed = replace(known, keys=(*old, new.key))
        assert self.attempt(ChangeOfficer.to(changed, known), name)
        self.people[name] = new

    @rule(threshold=st.integers(0, 5))
    def set_base(self, threshold: int) -> None:
        done = self.attempt(SetBaseRule(threshold))
        assert done == (2 <= threshold < len(self.people))
        if done:
            self.base = threshold

    @invariant()
    def whoever_is_lost_the_others_can_go_on(self) -> None:
        threshold, officers = self.world.ledger.read(
            lambda view: (view.base_threshold(), view.officers())
        )
        assert threshold == self.base
        assert {each.name for each in officers.able} == set(self.people)
        for lost in self.people:
            assert not unreachable([QuorumRule(BASE, threshold)], officers, [lost])


# Every step is three or more flushed transactions.
TestChanges = pytest.mark.slow(seconds=60)(pytest.mark.timeout(600)(Changes.TestCase))
TestChanges.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
