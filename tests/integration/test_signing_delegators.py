"""Who delegates a role, and who only did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.payload import parse
from keyd.domain.records_rotation import Rotation
from keyd.domain.trust import Basis, default_rules
from keyd.errors import KeydError
from keyd.ports import View
from keyd.services.check import check
from keyd.services.evidence import gather, role_or_new, still_holds
from keyd.services.repositories import set_role_rules
from keyd.services.rotation import receipts, uploads
from keyd.services.world import World
from tests.authors import Signed
from tests.worlds import ADMIN, SIGNER, Author, active_author, make_key, open_world, signed_file


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def test_whom_nobody_delegates_any_more_squats_on_no_name(world: World) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("mallory", "deeper", "sly", "alpha")}
    author.sign("targets", "targets", author.delegating(2, mallory=(1, ["mallory"])))
    author.sign(
        "mallory", "mallory", author.delegating(1, deeper=(1, ["deeper"]), late=(1, ["sly"]))
    )
    author.sign("deeper", "deeper", author.delegating(1, last=(1, ["sly"])))
    given = {"late": (1, ["alpha"]), "last": (1, ["alpha"])}
    with pytest.raises(KeydError, match="'mallory' delegates this role"):
        author.sign("targets", "targets", author.delegating(3, **given))
    author.sign("targets", "targets", author.targets(3))
    author.sign("targets", "targets", author.delegating(4, **given))
    for role in given:
        released = author.sign("alpha", role, author.targets(1))
        assert released.accepted, "by the list of targets alone"
    with pytest.raises(KeydError) as refused:
        author.sign("deeper", "deeper", author.delegating(2))
    assert "ROLE_NOT_DELEGATED" in {found.reason for found in refused.value.findings}


@pytest.fixture
def squatter(world: World) -> Author:
    """Mallory is dropped and delegates `late`, by way of `deeper`; targets delegates it by now."""
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("mallory", "deeper", "alpha", "other")}
    kept = {"other": (1, ["other"])}
    author.sign("targets", "targets", author.delegating(2, **kept, mallory=(1, ["mallory"])))
    author.sign("mallory", "mallory", author.delegating(1, deeper=(1, ["deeper"])))
    author.sign("deeper", "deeper", author.delegating(1, late=(1, ["other"])))
    author.sign("targets", "targets", author.delegating(3, **kept))
    author.sign("targets", "targets", author.delegating(4, **kept, late=(1, ["alpha"])))
    return author


@pytest.mark.parametrize("name", ["mallory", "deeper"])
def test_nobody_brings_a_squatter_back(squatter: Author, name: str) -> None:
    with pytest.raises(KeydError, match="its metadata delegates 'late', as another role does"):
        squatter.sign("other", "other", squatter.delegating(1, **{name: (1, ["deeper"])}))
    assert squatter.sign("alpha", "late", squatter.targets(1)).accepted


def bins_of(author: Author, key: str, bit_length: int = 8) -> Signed:
    listed = {**author.listing(1, key), "bit_length": bit_length, "name_prefix": "bin"}
    return {"keys": author.key_objects(key), "succinct_roles": listed}


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("squatting", ["bin-00", "bin-7f"])
def test_nobody_brings_squatting_bins_back(world: World, squatting: str, below: bool) -> None:
    """Any of them may have delegated a name; directly, or as the bins of a role that comes back."""
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("bins", "sly", "alpha", "other", "m")}
    kept, middle = {"other": (1, ["other"])}, {"middle": (1, ["m"])}
    binned = author.targets(1, delegations=bins_of(author, "bins"))
    if below:
        author.sign("targets", "targets", author.delegating(2, **kept, **middle))
        author.sign("m", "middle", binned)
    else:
        author.sign("targets", "targets", {**binned, "version": 2})
    author.sign("bins", squatting, author.delegating(1, late=(1, ["sly"])))
    author.sign("targets", "targets", author.delegating(3, **kept))
    author.sign("targets", "targets", author.delegating(4, **kept, late=(1, ["alpha"])))
    back = author.delegating(1, **middle) if below else binned
    with pytest.raises(KeydError, match="its metadata delegates 'late', as another role does"):
        author.sign("other", "other", back)
    assert author.sign("alpha", "late", author.targets(1)).accepted


@pytest.mark.parametrize("kept", [True, False])
def test_a_squatter_comes_back_where_the_same_version_gives_its_name_up(
    squatter: Author, kept: bool
) -> None:
    """Targets itself delegates `late`; only what it delegates from now on counts."""
    late = {"late": (1, ["alpha"])} if kept else {}
    both = squatter.delegating(5, other=(1, ["other"]), **late, mallory=(1, ["mallory"]))
    if kept:
        with pytest.raises(KeydError, match="its metadata delegates 'late', as another role does"):
            squatter.sign("targets", "targets", both)
    else:
        assert squatter.sign("targets", "targets", both).accepted


def test_a_squatter_and_its_name_do_not_come_in_one_version(squatter: Author) -> None:
    squatter.sign("targets", "targets", squatter.targets(5))
    both = squatter.delegating(6, mallory=(1, ["mallory"]), late=(1, ["alpha"]))
    with pytest.raises(KeydError, match="its metadata delegates 'late', as another role does"):
        squatter.sign("targets", "targets", both)


def waiting_squatter(author: Author, *, dropped: bool) -> Signed:
    """Mallory's metadata, which lacks a signature by m2; targets delegates its `late` by now."""
    names = ("m1", "m2", "sly", "alpha", "other")
    author.keys |= {name: make_key(author.world, name) for name in names}
    other, mallory = {"other": (1, ["other"])}, {"mallory": (2, ["m1", "m2"])}
    late = {"late": (1, ["alpha"])}
    author.sign("targets", "targets", author.delegating(2, **other, **mallory))
    waiting = author.delegating(1, late=(1, ["sly"]))
    assert not author.sign("m1", "mallory", waiting).accepted
    if dropped:
        author.sign("targets", "targets", author.delegating(3, **other))
        author.sign("targets", "targets", author.delegating(4, **other, **late))
        assert author.sign("other", "other", author.delegating(1, **mallory)).accepted
    else:
        author.sign("targets", "targets", author.delegating(3, **other, **mallory, **late))
    assert author.sign("alpha", "late", author.targets(1)).accepted
    return waiting


@pytest.mark.parametrize("dropped", [False, True])
def test_a_version_that_waited_takes_no_name_that_is_delegated_by_now(
    world: World, dropped: bool
) -> None:
    """It was judged when the name was free; its last signature would make two masters."""
    author = active_author(world)
    waiting = waiting_squatter(author, dropped=dropped)
    with pytest.raises(KeydError, match="'targets' delegates this role") as refused:
        author.sign("m2", "mallory", waiting)
    assert refused.value.reason == "DELEGATION_NAME_INVALID"
    assert not check(world, SIGNER, author.request("m2", "mallory", waiting)).would_sign
    assert author.sign("alpha", "late", author.targets(2)).accepted, "by alpha alone"
    free = author.delegating(2, early=(1, ["sly"]))
    author.sign("m1", "mallory", free)
    assert author.sign("m2", "mallory", free).accepted


def test_nor_does_a_signature_that_was_made_elsewhere(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = active_author(world)
    waiting = waiting_squatter(author, dropped=False)
    held = world.ledger.read(lambda view: view.reservation("demo", "mallory", 0, 1))
    monkeypatch.setattr(uploads, "still_open", lambda *_: None)
    monkeypatch.setattr(receipts, "check", lambda *_: held)
    made = json.loads(signed_file(author, waiting, "m2"))["signatures"][0]
    rotation = Rotation("r", "demo", "DELEGATED", b"", "", "", 0, 0, world.clock.now())
    with pytest.raises(KeydError, match="'targets' delegates this role"):
        uploads.upload(
            world,
            SIGNER.principal,
            rotation,
            receipt=b"",
            keyid=made["keyid"],
            signature=bytes.fromhex(made["sig"]),
        )


def test_who_signs_late_is_not_asked_about_names_again(world: World) -> None:
    """What was accepted is a fact, whoever came to delegate its names since."""
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("m1", "m2", "sly", "alpha")}
    mallory = {"mallory": (1, ["m1", "m2"])}
    author.sign("targets", "targets", author.delegating(2, **mallory))
    first = author.delegating(1, late=(1, ["sly"]))
    assert author.sign("m1", "mallory", first).accepted
    author.sign("m1", "mallory", author.targets(2))
    author.sign("targets", "targets", author.delegating(3, **mallory, late=(1, ["alpha"])))
    assert author.sign("m2", "mallory", first).accepted


def test_a_judgement_that_left_a_delegator_out_rests_on_everything(
    world: World, squatter: Author
) -> None:
    def basis(role: str) -> Basis:
        def work(view: View) -> Basis:
            repository = view.repository("demo")
            assert repository is not None
            payload = parse(canonical.encode(squatter.targets(1)), max_bytes=10_000)
            return gather(view, repository, role_or_new(view, "demo", role), payload).basis

        return world.ledger.read(work)

    before = {role: basis(role) for role in ("late", "other")}
    squatter.sign("snapshot", "snapshot", squatter.snapshot(2, targets=4))
    assert not world.ledger.read(lambda view: still_holds(view, "demo", before["late"]))
    assert world.ledger.read(lambda view: still_holds(view, "demo", before["other"]))


@pytest.mark.parametrize(
    ("taken", "refused"), [("bin-7f", True), ("bin-7f0", False), ("bin-7g", False)]
)
def test_no_bin_is_delegated_elsewhere_by_name(world: World, taken: str, refused: bool) -> None:
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("mallory", "sly", "bins")}
    author.sign("targets", "targets", author.delegating(2, mallory=(1, ["mallory"])))
    author.sign("mallory", "mallory", author.delegating(1, **{taken: (1, ["sly"])}))
    binned = author.delegating(3, mallory=(1, ["mallory"]))
    binned["delegations"] = {"keys": {}, **bins_of(author, "bins")}
    request = author.request("targets", "targets", binned)
    reasons = {found.reason for found in check(world, SIGNER, request).findings}
    assert ("DELEGATION_NAME_INVALID" in reasons) is refused


def test_rules_of_bins_are_set_by_their_prefix(world: World) -> None:
    author = active_author(world)
    author.keys["bins"] = make_key(world, "bins")
    rules = replace(default_rules("bin"), threshold_floor=2)
    set_role_rules(world, ADMIN, "demo", "bin", rules=rules, comment="two for each bin")
    with pytest.raises(KeydError) as refused:
        author.sign("targets", "targets", author.targets(2, delegations=bins_of(author, "bins")))
    assert refused.value.reason == "THRESHOLD_BELOW_FLOOR"
