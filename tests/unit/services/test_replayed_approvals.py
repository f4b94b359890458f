"""Envelopes that are not an approval of this proposal, as it stands now, by an officer's key."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import dsse
from keyd.domain.approval import Basis, Decision, Statement, sealed
from keyd.domain.officers import OfficerKeyState
from keyd.domain.operations import ChangeOfficer, Operation, SetBaseRule
from keyd.errors import KeydError
from keyd.services import proposals
from keyd.services.proposals import Shown
from keyd.services.world import World
from tests.fakes import TestClock
from tests.officers import (
    Person,
    approve,
    basis_of,
    carry_out,
    enrol,
    execute,
    person,
    propose,
)
from tests.tally import Promise, tallied
from tests.worlds import ADMIN, FixedPolicy, allow_all, open_world

PEOPLE = [person(name) for name in ("ann", "ben", "cat", "dan")]
STRANGER = person("eve")
COUNT = 5_000


def refusal(world: World, shown: Shown, envelope: bytes) -> str:
    """The reason for which an envelope is refused, "" if it is taken."""
    while True:
        try:
            proposals.decide(world, ADMIN, shown.proposal.name, envelope)
        except KeydError as error:
            # A busy machine, not a verdict.
            if error.reason != "LEDGER_STALLED":
                return error.reason
        else:
            return ""


def spelled_otherwise(envelope: bytes, chosen: random.Random) -> bytes:
    """The same or a damaged envelope, in bytes that keyd does not write."""
    document = json.loads(envelope)
    entry = document["signatures"][0]
    cut = chosen.randrange(len(envelope))
    flipped = bytearray(envelope)
    flipped[cut] ^= 1 << chosen.randrange(7)
    payload = json.loads(base64.b64decode(document["payload"]))
    more = base64.b64encode(json.dumps(payload | {"more": "1"}).encode()).decode()
    return chosen.choice(
        [
            envelope[:cut],
            bytes(flipped),
            envelope + b" ",
            json.dumps(document, indent=1).encode(),
            json.dumps({**document, "signatures": [entry, entry]}).encode(),
            json.dumps({**document, "signatures": []}).encode(),
            json.dumps({**document, "payload": more}).encode(),
            json.dumps({**document, "payloadType": "application/json"}).encode(),
            envelope.replace(b'"payload":', b'"payload":"","payload":', 1),
            b"x" * (dsse.MAX_BYTES + 1),
            b"",
        ]
    )


def with_other_basis(who: Person, basis: Basis, chosen: random.Random) -> bytes:
    """Correctly signed, for something else in one respect."""
    name = chosen.choice([*Basis.__dataclass_fields__])
    other = f"{chosen.getrandbits(256):064x}"
    return who.envelope(replace(basis, **{name: other}))


def by_wrong_key(who: Person, basis: Basis, chosen: random.Random) -> bytes:
    """In an officer's name, by a key that is another's or nobody's."""
    other = chosen.choice([STRANGER, *(each for each in PEOPLE if each is not who)])
    statement = Statement(who.name, Decision.APPROVE, basis)
    signature = other.private.sign(statement.to_be_signed())
    return sealed(statement, chosen.choice([who.key, other.key]), signature)


@pytest.mark.slow(seconds=20)
@pytest.mark.timeout(600)
def test_no_replay_is_accepted(tmp_path: Path) -> None:
    clock = TestClock()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    world = open_world(tmp_path / "one", clock=clock)
    enrol(world, *PEOPLE, threshold=3)
    foreign = open_world(tmp_path / "two", clock=clock)
    enrol(foreign, *PEOPLE, threshold=3)
    operation = SetBaseRule(2)
    decided = carry_out(world, SetBaseRule(3), *PEOPLE[:3])
    abroad = propose(foreign, operation)
    stale = propose(world, SetBaseRule(1 + 1))
    old = [who.envelope(basis_of(stale)) for who in PEOPLE]
    clock.advance(hours=2)
    shown = propose(world, operation)
    basis = basis_of(shown)
    chosen = random.Random(20261128)

    def replayed(who: Person) -> bytes:
        statement = chosen.choice([basis_of(decided), basis_of(abroad), basis_of(stale)])
        return chosen.choice([who.envelope(statement), chosen.choice(old)])

    makers: list[Callable[[Person], bytes]] = [
        replayed,
        lambda who: with_other_basis(who, basis, chosen),
        lambda who: by_wrong_key(who, basis, chosen),
        lambda _: STRANGER.envelope(basis),
        lambda who: spelled_otherwise(who.envelope(basis), chosen),
    ]
    reasons: Counter[str] = Counter()
    with tallied(Promise.APPROVED, "an approval replayed, forged or damaged") as tally:
        for _ in range(COUNT):
            envelope = chosen.choice(makers)(chosen.choice(PEOPLE))
            reasons[refusal(world, shown, envelope)] += 1
            tally.injected()
        assert reasons[""] == 0, reasons
        assert reasons.keys() == {
            "APPROVAL_SIGNATURE_INVALID",
            "ENVELOPE_MALFORMED",
            "OFFICER_KEY_UNKNOWN",
            "STATEMENT_FOREIGN_DAEMON",
            "STATEMENT_OTHER_PROPOSAL",
            "STATEMENT_STALE",
        }
        now = proposals.get(world, ADMIN, shown.proposal.name)
        assert now.approvals == ()
    assert approve(world, now, *PEOPLE[:3]).standing.approved


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = open_world(tmp_path)
    enrol(made, *PEOPLE[:3])
    return made


def test_a_second_approval_by_one_person_is_refused(world: World) -> None:
    ann = PEOPLE[0]
    shown = propose(world, SetBaseRule(2))
    approve(world, shown, ann)
    again = ann.envelope(basis_of(shown))
    assert refusal(world, shown, again) == "APPROVAL_REPEATED"
    other = ann.envelope(basis_of(shown), Decision.REJECT)
    assert refusal(world, shown, other) == "APPROVAL_REPEATED"


def test_two_keys_of_one_person_count_once(world: World) -> None:
    ann, spare = PEOPLE[0], PEOPLE[0].with_new_key()
    both = replace(ann.officer, keys=(ann.key, spare.key))
    carry_out(world, ChangeOfficer.to(both, ann.officer), *PEOPLE[1:3])
    shown = propose(world, SetBaseRule(2))
    approve(world, shown, spare)
    assert refusal(world, shown, ann.envelope(basis_of(shown))) == "APPROVAL_REPEATED"


@pytest.mark.parametrize("state", [OfficerKeyState.REPLACED, OfficerKeyState.COMPROMISED])
def test_a_replaced_key_approves_nothing(world: World, state: OfficerKeyState) -> None:
    ann, new = PEOPLE[0], PEOPLE[0].with_new_key()
    changed = replace(ann.officer, keys=(replace(ann.key, state=state), new.key))
    carry_out(world, ChangeOfficer.to(changed, ann.officer), *PEOPLE[1:3])
    shown = propose(world, SetBaseRule(2))
    assert refusal(world, shown, ann.envelope(basis_of(shown))) == "OFFICER_KEY_UNKNOWN"
    assert refusal(world, shown, new.envelope(basis_of(shown))) == ""


def _after(world: World, change: Operation | None, tmp_path: Path) -> World:
    """Something that approvals rest on changes; None: the policy."""
    if change is not None:
        carry_out(world, change, *PEOPLE[:2])
        return world
    other = replace(allow_all(ADMIN.principal), revision="1" * 64)
    return replace(world, policy=FixedPolicy(other))


@pytest.mark.parametrize(
    "change",
    [ChangeOfficer.to(PEOPLE[3].officer, None), None],
    ids=["officers", "policy"],
)
def test_no_approval_survives_a_change(
    world: World, change: Operation | None, tmp_path: Path
) -> None:
    shown = approve(world, propose(world, SetBaseRule(2)), *PEOPLE[:2])
    assert shown.standing.approved
    world = _after(world, change, tmp_path)
    with pytest.raises(KeydError, match="changed since") as caught:
        execute(world, ADMIN, shown.proposal.name)
    assert caught.value.reason == "APPROVAL_REQUIRED"
    assert refusal(world, shown, PEOPLE[2].envelope(basis_of(shown))) == "PROPOSAL_STALE"


def test_an_approval_survives_a_restart_and_is_used_once(world: World, tmp_path: Path) -> None:
    shown = approve(world, propose(world, SetBaseRule(2)), *PEOPLE[:2])
    world.ledger.close()
    again = open_world(tmp_path)
    execute(again, ADMIN, shown.proposal.name)
    with pytest.raises(KeydError) as caught:
        execute(again, ADMIN, shown.proposal.name)
    assert caught.value.reason == "APPROVAL_REQUIRED"
