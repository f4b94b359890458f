"""Fast-forward recovery: no old keys that stay, or come back, vouch for what is to be forgotten."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import Signature
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Timestamp

from keyd.domain import canonical
from keyd.domain.payload import Payload
from keyd.domain.rotation.building import ListChange, build_root, bump
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.planning import plan
from keyd.domain.rotation.standing import KeyFacts, Standing
from tests.root_versions import (
    EXPIRES,
    SNAPSHOT,
    TIMESTAMP,
    RootVersion,
    fingerprint,
    root_file,
    signer,
)

ROOT_KEYS = (1, 2, 3)
A, B, C, FRESH, OTHER = 11, 12, 13, 14, 15


def standing(*numbers: int, threshold: int = 1, role: str = "timestamp") -> Standing:
    """Root 1 lists keys for a role, all of them held here."""
    root = RootVersion(ROOT_KEYS, 2, others={role: (numbers, threshold)})
    known = (*numbers, FRESH, OTHER, SNAPSHOT, TIMESTAMP)
    return Standing(
        repository="demo",
        development=False,
        now=EXPIRES,
        trusted={"root": root_file(1, root).payload},
        delegators={},
        keys={f"key-{n}": KeyFacts(f"key-{n}", fingerprint(n)) for n in known},
    )


def changed(
    add: Collection[int],
    remove: Collection[int],
    threshold: int | None = None,
    role: str = "timestamp",
) -> RoleChange:
    keys = tuple(NewKey(f"key-{n}", "", signer(n).public_key.to_dict()) for n in sorted(add))
    return RoleChange(role, keys, tuple(fingerprint(n) for n in sorted(remove)), threshold)


def incomplete(world: Standing, *changes: RoleChange, lower: str = "timestamp") -> list[str]:
    """What a plan says about keys that would have to change as well."""
    wanted = ChangeSet(RotationKind.FAST_FORWARD, "demo", changes, lower={lower: 5})
    found = plan(wanted, world).refusals
    return [each.message for each in found if each.reason == "FAST_FORWARD_INCOMPLETE"]


@pytest.mark.parametrize(
    ("old", "threshold", "change", "left"),
    [
        pytest.param((A,), 1, changed((FRESH,), (A,)), "", id="all replaced"),
        pytest.param((A,), 1, changed((A,), (A,)), "key-11", id="leaves and enters"),
        pytest.param((A,), 1, changed((A, FRESH), (A,)), "key-11", id="enters beside a new one"),
        pytest.param((A, B), 1, changed((FRESH,), (A,)), "key-12", id="one of two leaves"),
        pytest.param((A, B), 1, changed((FRESH,), (A, B)), "", id="both leave"),
        pytest.param((A, B), 2, changed((FRESH,), (A,)), "", id="one is no threshold"),
        pytest.param((A, B, C), 2, changed((FRESH,), (A,)), "key-12, key-13", id="two are one"),
        pytest.param((A, B), 2, changed((FRESH,), (A,), 1), "key-12", id="threshold lowered"),
        pytest.param((A, B), 1, changed((FRESH,), (A,), 2), "", id="threshold raised"),
        pytest.param((A,), 1, changed((FRESH,), (), 2), "key-11", id="raised and none leaves"),
        pytest.param((A,), 1, changed((FRESH,), ()), "key-11", id="one is added"),
    ],
)
def test_old_keys_below_the_new_threshold(
    old: tuple[int, ...], threshold: int, change: RoleChange, left: str
) -> None:
    said = incomplete(standing(*old, threshold=threshold), change)
    assert [f", {left} would be listed for timestamp" in each for each in said] == [True] * bool(
        left
    )


def test_every_role_of_the_matrix_is_looked_at_and_named() -> None:
    world = standing(A, B, role="snapshot")
    timestamp = changed((FRESH,), (TIMESTAMP,))
    partly = changed((OTHER,), (A,), role="snapshot")
    (said,) = incomplete(world, timestamp, partly, lower="snapshot")
    assert said.startswith("to lower snapshot, the keys of snapshot must change as well: ")
    assert "key-12 would" in said
    for role in ("targets", "team"):
        assert len(incomplete(world, timestamp, partly, lower=role)) == 1
    assert incomplete(world, timestamp, partly) == []
    wholly = changed((OTHER,), (A, B), role="snapshot")
    assert incomplete(world, timestamp, wholly, lower="snapshot") == []
    assert "keys of timestamp must" in "".join(incomplete(world, wholly, lower="snapshot"))


@dataclass(frozen=True)
class Case:
    """A list and what happens to it; keys may leave and enter again, those of `former` as well."""

    old: frozenset[int]
    old_threshold: int
    gone: frozenset[int]
    come: frozenset[int]
    threshold: int
    former: frozenset[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    numbers = st.sampled_from(range(A, A + 6))
    old = draw(st.frozensets(numbers, min_size=1, max_size=4))
    gone = draw(st.frozensets(st.sampled_from(sorted(old)), min_size=1))
    come = draw(st.frozensets(numbers, max_size=4)) - (old - gone)
    new = len((old - gone) | come)
    return Case(
        old=old,
        old_threshold=draw(st.integers(1, len(old))),
        gone=gone,
        come=come,
        threshold=draw(st.integers(1, max(1, new))),
        former=draw(st.frozensets(numbers)),
    )


def new_root(case: Case, world: Standing) -> Root:
    """The root that the change leads to, as a client reads it."""
    keys = [signer(number).public_key for number in sorted(case.come)]
    change = ListChange(
        add=tuple((key.keyid, key.to_dict()) for key in keys),
        remove=frozenset(fingerprint(number) for number in case.gone),
        threshold=case.threshold,
    )
    trusted = world.trusted["root"]
    bumped = bump(trusted, 2, "2040-01-01T00:00:00Z")
    return Root.from_dict(build_root(trusted, bumped, {"timestamp": change}))


def is_kept(case: Case, root: Root) -> bool:
    """Whether python-tuf goes on with a timestamp that all earlier keys have signed."""
    cached = Metadata(Timestamp(version=1000, expires=EXPIRES))
    for number in case.old | case.former:
        cached.sign(signer(number), append=True)
    try:
        root.verify_delegate("timestamp", cached.signed_bytes, cached.signatures)
    except UnsignedMetadataError:
        return False
    return True


@given(case=cases())
def test_a_plan_is_complete_when_clients_drop_what_old_keys_signed(case: Case) -> None:
    former = {"timestamp": frozenset(fingerprint(number) for number in case.former)}
    world = replace(standing(*case.old, threshold=case.old_threshold), former=former)
    change = changed(case.come, case.gone, case.threshold)
    kept = is_kept(case, new_root(case, world))
    none_leaves = case.gone <= case.come
    assert bool(incomplete(world, change)) == (kept or none_leaves)


def test_a_signature_fits_every_id_of_its_key() -> None:
    """A thief renames signatures: an old key under a new id vouches as before."""
    renamed = {**signer(A).public_key.to_dict(), "x-again": True}
    again = RoleChange("timestamp", (NewKey("again", "eve", renamed),), (fingerprint(A),))
    assert len(incomplete(standing(A), again)) == 1
    cached = Metadata(Timestamp(version=1000, expires=EXPIRES))
    made = cached.sign(signer(A))
    root = Root.from_dict(dict(root_file(1, RootVersion(ROOT_KEYS, 2)).payload.signed))
    key = type(signer(A).public_key).from_dict("other-id", dict(renamed))
    root.add_key(key, "timestamp")
    signatures = {"other-id": Signature("other-id", made.signature)}
    root.verify_delegate("timestamp", cached.signed_bytes, signatures)


def warned_of_twins(world: Standing, *changes: RoleChange, lower: str) -> list[str]:
    wanted = ChangeSet(RotationKind.FAST_FORWARD, "demo", changes, lower={lower: 5})
    found = plan(wanted, world).findings
    return [each.message for each in found if each.reason == "RECOVERY_KEYS_STAY"]


def listing(world: Standing, **entry: object) -> Standing:
    """The trusted snapshot lists targets so."""
    signed = {"_type": "snapshot", "meta": {"targets.json": {"version": 9, **entry}}}
    snapshot = Payload(canonical.encode(signed), signed)
    return replace(world, trusted={**world.trusted, "snapshot": snapshot})


def test_old_files_of_a_lowered_version_are_warned_of_where_nothing_tells_them_apart() -> None:
    world = listing(standing(A, B, role="targets"))
    (said,) = warned_of_twins(world, lower="targets")
    assert said.startswith("key-11, key-12 would stay listed for targets")
    partly, wholly = (changed((FRESH,), gone, role="targets") for gone in ((A,), (A, B)))
    assert warned_of_twins(world, partly, lower="targets")[0].startswith("key-12 would")
    assert warned_of_twins(world, wholly, lower="targets") == []
    hashed = listing(world, hashes={"sha256": "0" * 64})
    assert warned_of_twins(hashed, lower="targets") == []
    # These are refused.
    for role in ("timestamp", "snapshot", "root"):
        assert warned_of_twins(world, lower=role) == []
