"""What a plan asks for is what python-tuf's clients demand, for any lists and any change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from keyd.domain import canonical, metadata_file
from keyd.domain.keys import KeyState
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.payload import parse
from keyd.domain.public_keys import keyid_whole_object
from keyd.domain.rotation.building import ListChange, build_root, bump
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.explaining import explain
from keyd.domain.rotation.plan import Plan
from keyd.domain.rotation.planning import plan
from keyd.domain.rotation.standing import KeyFacts, Standing
from tests.root_versions import EXPIRES, RootVersion, fingerprint, root_file, signer

NUMBERS = range(1, 9)
UNREACHABLE = {"OLD_THRESHOLD_UNREACHABLE", "NEW_THRESHOLD_UNREACHABLE"}


@dataclass(frozen=True)
class Case:
    """An old list and what happens to it; `renamed` leave and enter under another id."""

    old: frozenset[int]
    old_threshold: int
    gone: frozenset[int]
    renamed: frozenset[int]
    come: frozenset[int]
    threshold: int | None
    dead: frozenset[int]

    @property
    def new(self) -> frozenset[int]:
        return (self.old - self.gone) | self.renamed | self.come

    @property
    def new_threshold(self) -> int:
        return self.old_threshold if self.threshold is None else self.threshold


@st.composite
def cases(draw: st.DrawFn) -> Case:
    old = draw(st.frozensets(st.sampled_from(NUMBERS), min_size=1, max_size=5))
    some_old = st.frozensets(st.sampled_from(sorted(old)))
    gone = draw(some_old)
    return Case(
        old=old,
        old_threshold=draw(st.integers(1, len(old))),
        gone=gone,
        renamed=draw(some_old) & gone,
        come=draw(st.frozensets(st.sampled_from(NUMBERS), max_size=4)) - old,
        threshold=draw(st.none() | st.integers(1, 6)),
        dead=draw(some_old),
    )


def key_object(case: Case, number: int) -> tuple[str, dict[str, Any]]:
    """Key id and object in the new root."""
    public = signer(number).public_key
    if number not in case.renamed:
        return public.keyid, public.to_dict()
    renamed = {**public.to_dict(), "x-again": True}
    return keyid_whole_object(renamed), renamed


def label(number: int) -> str:
    return f"key-{number}"


def planned(case: Case, old: MetadataFile) -> Plan:
    """Dead keys are destroyed ones of this daemon, all others belong to people."""
    states = {n: KeyState.DESTROYED if n in case.dead else KeyState.ACTIVE for n in case.old}
    facts = {n: KeyFacts(label(n), fingerprint(n), states[n]) for n in case.old}
    enter = sorted(case.come | case.renamed)
    change = RoleChange(
        "root",
        tuple(NewKey(label(n), f"holder-{n}", key_object(case, n)[1]) for n in enter),
        tuple(fingerprint(n) for n in case.gone),
        case.threshold,
    )
    standing = Standing(
        repository="demo",
        development=True,
        now=EXPIRES,
        trusted={"root": old.payload},
        delegators={},
        keys={facts[n].label: facts[n] for n in case.old},
        next_root=2,
    )
    return plan(ChangeSet(RotationKind.ROOT, "demo", (change,)), standing)


def next_root(case: Case, old: MetadataFile, signers: frozenset[int]) -> bytes:
    """The root that keyd builds of the change, signed under every id that a signer has."""
    change = ListChange(
        tuple(key_object(case, number) for number in sorted(case.come | case.renamed)),
        frozenset(fingerprint(number) for number in case.gone),
        case.threshold,
    )
    bumped = bump(old.payload, 2, "2041-01-01T00:00:00Z")
    raw = canonical.encode(build_root(old.payload, bumped, {"root": change}))
    signatures = {}
    for number in sorted(signers):
        made = signer(number).sign(raw).signature
        for keyid in (signer(number).public_key.keyid, key_object(case, number)[0]):
            signatures[keyid] = made
    return metadata_file.write(parse(raw, max_bytes=1_000_000), tuple(signatures.items()))


def first_root(case: Case) -> MetadataFile:
    return root_file(1, RootVersion(sorted(case.old), case.old_threshold, sorted(case.old)))


def taken(case: Case, old: MetadataFile, signers: frozenset[int]) -> bool:
    """Whether python-tuf's client takes root 2; its two ways of asking agree."""
    content = next_root(case, old, signers)
    client = TrustedMetadataSet(
        metadata_file.write(old.payload, old.signatures), EnvelopeType.METADATA
    )
    try:
        client.update_root(content)
        took = True
    except RepositoryError:
        took = False
    before, after = client_root(old), Metadata[Root].from_bytes(content)
    result = after.signed.get_root_verification_result(before, after.signed_bytes, after.signatures)
    assert bool(result) is took
    return took


def client_root(file: MetadataFile) -> Root:
    return Metadata[Root].from_bytes(metadata_file.write(file.payload, file.signatures)).signed


def met(made: Plan, signers: frozenset[int]) -> bool:
    """Whether the signatures that the plan's root step asks for are there."""
    names = {label(number) for number in signers}
    return all(
        len({key.split()[0] for key in need.keys} & names) >= need.threshold for need in made.needs
    )


@settings(max_examples=150)
@given(cases(), st.frozensets(st.sampled_from(NUMBERS)))
def test_the_plan_is_met_exactly_when_clients_take_the_root(
    case: Case, signers: frozenset[int]
) -> None:
    assume(case.new)
    old = first_root(case)
    assert met(planned(case, old), signers) is taken(case, old, signers)


@settings(max_examples=100)
@given(cases(), st.randoms(use_true_random=False))
def test_one_signature_fewer_is_refused(case: Case, random: Any) -> None:
    """Signers leave in any order while the plan is met: then none can leave any more."""
    assume(len(case.new) >= case.new_threshold)
    old = first_root(case)
    made = planned(case, old)
    signers = case.old | case.new
    for number in random.sample(sorted(signers), len(signers)):
        if met(made, signers - {number}):
            signers -= {number}
    assert taken(case, old, signers)
    assert not any(taken(case, old, signers - {number}) for number in signers)


@settings(max_examples=100)
@given(cases())
def test_a_dead_end_is_refused_beforehand_and_nothing_else(case: Case) -> None:
    """Exactly where all keys that are alive together do not convince a client."""
    assume(case.new)
    old = first_root(case)
    refusals = {found.reason for found in planned(case, old).refusals}
    alive = (case.old | case.new) - (case.dead - case.renamed)
    # A person who has the key can sign with it, whatever became of the copy here.
    assume(not case.renamed & case.dead)
    assert bool(refusals & UNREACHABLE) is not taken(case, old, alive)
    assert refusals <= UNREACHABLE


@settings(max_examples=100)
@given(cases(), st.frozensets(st.sampled_from(NUMBERS)))
def test_two_files_tell_what_was_planned(case: Case, signers: frozenset[int]) -> None:
    """Read back from the two roots, the change is the one that was asked for."""
    assume(case.new)
    old = first_root(case)
    found = explain(old, metadata_file.read(next_root(case, old, signers)), "demo")
    asked = planned(case, old).change.of("root")
    assert asked is not None
    read = found.plan.change.of("root")
    threshold = case.threshold if case.threshold != case.old_threshold else None
    if not (asked.add or asked.remove or threshold):
        assert read is None
        return
    assert read is not None
    assert set(read.remove) == set(asked.remove)
    objects = [{canonical.encode(key.key_object) for key in c.add} for c in (read, asked)]
    assert objects[0] == objects[1]
    assert read.threshold == threshold
    missing = [count.missing for count in found.counts]
    assert (not any(missing)) is taken(case, old, signers)
