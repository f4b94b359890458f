"""Plans for the key list of hash bins: one row for all, whatever their number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest

from keyd.domain import canonical
from keyd.domain.payload import Payload
from keyd.domain.rotation import building
from keyd.domain.rotation.building import ListChange
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.plan import Plan, Signing, StepKind, plan_of, range_words, table
from keyd.domain.rotation.planning import plan
from keyd.domain.rotation.standing import Standing
from tests.counting import calls_of
from tests.root_versions import EXPIRES, RootVersion, fingerprint, root_file, signer

OLD_KEY, OTHER_KEY, NEW_KEY = 5, 6, 7
NEW = NewKey("new", "alice", signer(NEW_KEY).public_key.to_dict())
SWAP = RoleChange("bin", (NEW,), (fingerprint(OLD_KEY),))


def key_objects(*numbers: int) -> dict[str, object]:
    return {signer(n).public_key.keyid: signer(n).public_key.to_dict() for n in numbers}


@cache
def delegator(bit_length: int) -> Payload:
    """Targets 4 with bins of the keys OLD_KEY and OTHER_KEY."""
    keys = key_objects(OLD_KEY, OTHER_KEY)
    succinct = {
        "bit_length": bit_length,
        "keyids": list(keys),
        "name_prefix": "bin",
        "threshold": 1,
    }
    signed = {
        "_type": "targets",
        "delegations": {"keys": keys, "succinct_roles": succinct},
        "expires": "2040-01-01T00:00:00Z",
        "spec_version": "1.0.31",
        "targets": {},
        "version": 4,
    }
    return Payload(raw=canonical.encode(signed), signed=signed)


def names(bit_length: int) -> list[str]:
    width = len(f"{2**bit_length - 1:x}")
    return [f"bin-{number:0{width}x}" for number in range(2**bit_length)]


def standing(bit_length: int, *published: str) -> Standing:
    root = root_file(1, RootVersion(keys=(1, 2, 3), threshold=2)).payload
    some = delegator(bit_length)
    return Standing(
        repository="demo",
        development=False,
        now=EXPIRES,
        trusted={"root": root, "targets": some, "snapshot": some, "timestamp": some}
        | dict.fromkeys(published, Payload(b"{}", {"_type": "targets"})),
        delegators=dict.fromkeys(("bin", *published), ("targets",)),
        keys={},
        bins={"bin": published},
    )


def planned(
    world: Standing, *changes: RoleChange, kind: str = "DELEGATED", stolen: int = 0
) -> Plan:
    compromised = (fingerprint(stolen),) if stolen else ()
    made = ChangeSet(RotationKind(kind), "demo", changes or (SWAP,), compromised)
    return plan(made, world)


def refused(made: Plan) -> Mapping[str, str]:
    return {finding.reason: finding.message for finding in made.refusals}


def test_every_published_bin_is_signed_under_a_number_of_its_own() -> None:
    made = planned(standing(8, "bin-00", "bin-17", "bin-ff"))
    assert refused(made) == {}
    signed = [each for step in made.steps for each in step.signed]
    assert signed == [
        Signing(0, "targets", 0),
        Signing(1, "bin-00", 0),
        Signing(2, "bin-17", 0),
        Signing(3, "bin-ff", 0),
        Signing(4, "snapshot", 0),
        Signing(5, "timestamp", 0),
    ]
    assert [step.number for step in made.steps if step.kind is not StepKind.SIGN] == [6, 7]
    assert plan_of(made.raw) == replace(made, change=plan_of(made.raw).change)
    assert plan_of(made.raw).digest == made.digest


def test_other_plans_are_written_as_before() -> None:
    """Or rotations that were begun by an older keyd would have another digest now."""
    made = planned(standing(8, "bin-17"))
    members = {"number", "kind", "text", "subject", "version", "token", "scheme"}
    steps = json.loads(made.raw)["steps"]
    assert [set(step) for step in steps] == [members] * len(steps)


def test_a_reader_sees_one_row() -> None:
    lines = table(planned(standing(8, *names(8))))
    assert "  2. sign bin-00 … bin-ff, 256 roles: their keys changed" in lines
    keys = f"{fingerprint(OTHER_KEY)[:12]} (elsewhere), new (alice)"
    assert f"     bin-00 … bin-ff: 1 of {keys}; asked of alice" in lines
    assert len(lines) < 20


@pytest.mark.parametrize(
    ("roles", "words"),
    [((), ""), (("bin-3",), "bin-3"), (("bin-3", "bin-7"), "bin-3 … bin-7, 2 roles")],
)
def test_ranges_in_words(roles: tuple[str, ...], words: str) -> None:
    assert range_words(roles) == words


def test_one_bin_alone_is_refused_whether_it_is_published_or_not() -> None:
    for role in ("bin-00", "bin-01"):
        made = planned(standing(8, "bin-00"), replace(SWAP, role=role))
        assert "name their prefix 'bin'" in refused(made)["ROTATION_OF_BINS"]
    beyond = planned(standing(8), replace(SWAP, role="bin-100"))
    assert "ROLE_NOT_DELEGATED" in refused(beyond)


def test_the_list_of_bins_is_judged_as_any_other() -> None:
    world = standing(8, "bin-00")
    assert "ROTATION_KEY_NOT_LISTED" in refused(planned(world, replace(SWAP, remove=("ab" * 32,))))
    high = planned(world, replace(SWAP, threshold=3))
    assert "NEW_THRESHOLD_UNREACHABLE" in refused(high)
    twice = replace(SWAP, add=(replace(NEW, key_object=signer(OTHER_KEY).public_key.to_dict()),))
    assert "KEY_MATERIAL_REPEATED" in refused(planned(world, twice))


def test_a_stolen_key_leaves_bins_with_their_prefix() -> None:
    world = standing(8, "bin-00")
    assert refused(planned(world, kind="EMERGENCY", stolen=OLD_KEY)) == {}
    elsewhere = replace(SWAP, remove=(fingerprint(OTHER_KEY),))
    left = refused(planned(world, elsewhere, kind="EMERGENCY", stolen=OLD_KEY))
    assert "256 bins bin-*" in left["STOLEN_KEY_STAYS_LISTED"]


def test_who_signs_is_told_of_a_bin_whose_version_is_lowered() -> None:
    """What policy asks grants for follows from it."""
    lowered = ChangeSet(RotationKind.FAST_FORWARD, "demo", lower={"bin-17": 2})
    made = plan(lowered, standing(8, "bin-00", "bin-17"))
    steps = made.numbered
    needs = {steps[need.step].subject: need.threshold for need in made.needs}
    assert needs == {"bin-17": 1, "snapshot": 1, "timestamp": 1}


def test_a_bin_that_is_lowered_changes_its_keys_under_the_prefix() -> None:
    world = standing(8, "bin-00", "bin-17")
    both = replace(SWAP, remove=(fingerprint(OLD_KEY), fingerprint(OTHER_KEY)))
    found = []
    for changes in ((), (SWAP,), (both,)):
        lowered = ChangeSet(RotationKind.FAST_FORWARD, "demo", changes, lower={"bin-17": 2})
        reasons = {finding.reason for finding in plan(lowered, world).findings}
        found.append("RECOVERY_KEYS_STAY" in reasons)
    assert found == [True, True, False]


def test_bins_that_are_published_and_not_recorded_forbid_it() -> None:
    """Nobody here could sign them anew, and clients would refuse them."""
    world = standing(8, *names(8))
    lost = frozenset(names(8)[:100])
    trusted = {role: found for role, found in world.trusted.items() if role not in lost}
    made = planned(replace(world, trusted=trusted, unseen=lost))
    said = refused(made)["ROTATION_METADATA_UNKNOWN"]
    assert "bin-00, bin-01" in said
    assert "and 92 more" in said


def test_many_pending_bins_are_told_in_few_words() -> None:
    world = standing(8, *names(8))
    made = planned(replace(world, pending=dict.fromkeys(names(8), 3)))
    assert not made.refusals
    told = [f.message for f in made.told if f.reason == "ROTATION_VERSION_PENDING"]
    assert len(told) == 9
    assert told[-1].startswith("248 more roles")


def test_the_delegator_lists_the_new_key_and_drops_the_old() -> None:
    before = delegator(8)
    added = next(iter(key_objects(NEW_KEY).items()))
    change = ListChange(add=((added[0], NEW.key_object or {}),), remove=frozenset(SWAP.remove))
    after = building.build_delegator(
        before, building.bump(before, 5, "2040-01-01T00:00:00Z"), {"bin": replace(change)}
    )
    assert after["delegations"]["keys"] == key_objects(OTHER_KEY, NEW_KEY)
    succinct = after["delegations"]["succinct_roles"]
    assert succinct["keyids"] == list(key_objects(OTHER_KEY, NEW_KEY))
    assert (succinct["name_prefix"], succinct["bit_length"]) == ("bin", 8)


def calls(bit_length: int) -> int:
    """How many functions a plan of so many bins calls."""
    world = standing(bit_length, *names(bit_length))
    return calls_of(lambda: table(plan_of(planned(world).raw)))


def test_a_plan_of_all_bins_there_are_is_linear_and_small() -> None:
    calls(4)
    assert calls(14) < 2.1 * calls(13)
    made = planned(standing(14, *names(14)))
    assert len(made.raw) < 300_000
    assert len("\n".join(table(made))) < 2_000
