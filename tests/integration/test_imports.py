"""Metadata published elsewhere: verified, remembered, and never allowed to contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyd.domain import canonical, metadata_file, public_keys
from keyd.domain.keys import Content, KeySpec, KeyState, Scheme
from keyd.domain.records import ReservationState
from keyd.domain.tokens import SignItem
from keyd.errors import NotAllowed, PolicyViolation
from keyd.services.imports import Imported, import_metadata
from keyd.services.keys import change_state
from keyd.services.registration import register
from keyd.services.repositories import state
from keyd.services.world import World
from tests.fakes import PrivateKey, new_private_key, public_der, sign_with
from tests.worlds import (
    ADMIN,
    SIGNER,
    Author,
    active_author,
    existing_repository,
    make_key,
    open_world,
    signed_file,
)

Signed = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def file_of(author: Author, role: str, signed: Signed, *keys: str) -> bytes:
    """The published file: every signature from the daemon."""
    signatures = []
    for key in keys:
        released = author.sign(key, role, signed)
        assert released.key is not None
        keyid, _ = public_keys.tuf_key(released.key.public_der, released.key.scheme)
        signatures.append({"keyid": keyid, "sig": released.signature.hex()})
    return json.dumps({"signatures": signatures, "signed": signed}).encode()


def import_one(world: World, role: str, content: bytes) -> Imported:
    return import_metadata(world, SIGNER, repository="demo", files=[(role, content)])[0]


def reasons(imported: Imported) -> set[str]:
    return {finding.reason for finding in imported.findings}


def test_file_facts_of_own_metadata_become_known_and_are_enforced(world: World) -> None:
    author = active_author(world)
    targets = file_of(author, "targets", author.targets(2), "targets")
    facts = metadata_file.facts_of(targets)
    snapshot = author.snapshot(2, targets=2)
    snapshot["meta"]["targets.json"] |= {"length": facts.length, "hashes": {"sha256": "0" * 64}}
    unchecked = author.sign("snapshot", "snapshot", {**snapshot, "version": 2})
    assert "HASHES_UNCHECKED" in {warning.reason for warning in unchecked.warnings}
    assert import_one(world, "targets", targets).recorded
    snapshot["meta"]["targets.json"]["hashes"] = {"sha256": "1" * 64}
    with pytest.raises(PolicyViolation) as refused:
        author.sign("snapshot", "snapshot", {**snapshot, "version": 3})
    assert refused.value.reason == "TARGETS_REFERENCE_MISMATCH"
    snapshot["meta"]["targets.json"]["hashes"] = {"sha256": facts.hashes["sha256"]}
    checked = author.sign("snapshot", "snapshot", {**snapshot, "version": 3})
    assert checked.warnings == ()


def test_threshold_is_verified(world: World) -> None:
    author = active_author(world)
    signed = author.targets(7)
    imported = import_one(
        world, "targets", json.dumps({"signatures": [], "signed": signed}).encode()
    )
    assert (imported.recorded, reasons(imported)) == (False, {"SIGNATURES_MISSING"})
    wrong = file_of(author, "timestamp", author.timestamp(2), "timestamp")
    assert reasons(import_one(world, "targets", wrong)) == {"ROLE_MISMATCH"}


def test_forged_file_is_refused(world: World) -> None:
    author = active_author(world)
    document = json.loads(file_of(author, "targets", author.targets(2), "targets"))
    document["signed"]["version"] = 3
    imported = import_one(world, "targets", json.dumps(document).encode())
    assert (imported.recorded, reasons(imported)) == (False, {"SIGNATURES_MISSING"})


class ForeignRepository:
    """A repository signed outside keyd, to be registered."""

    def __init__(self) -> None:
        names = ("root-a", "root-b", "targets", "snapshot", "timestamp")
        self.private: dict[str, PrivateKey] = {
            name: new_private_key(KeySpec(Scheme.ECDSA_P256)) for name in names
        }

    def keyid(self, name: str) -> str:
        return public_keys.tuf_key(public_der(self.private[name]), Scheme.ECDSA_P256)[0]

    def file(self, signed: Signed, *names: str) -> bytes:
        raw = canonical.encode(signed)
        signatures = [
            {
                "keyid": self.keyid(name),
                "sig": sign_with(self.private[name], Scheme.ECDSA_P256, raw).hex(),
            }
            for name in names
        ]
        return json.dumps({"signed": signed, "signatures": signatures}, indent=1).encode()

    def root(self, version: int) -> Signed:
        ders = {name: public_der(private) for name, private in self.private.items()}
        keys = dict(public_keys.tuf_key(der, Scheme.ECDSA_P256) for der in ders.values())
        listed = {
            "root": ["root-a", "root-b"],
            **{role: [role] for role in ("targets", "snapshot", "timestamp")},
        }
        return {
            "_type": "root",
            "spec_version": "1.0.0",
            "version": version,
            "expires": "2031-01-01T00:00:00Z",
            "consistent_snapshot": True,
            "keys": keys,
            "roles": {
                role: {"keyids": [self.keyid(name) for name in names], "threshold": 1}
                for role, names in listed.items()
            },
        }

    def timestamp(self, version: int) -> Signed:
        return {
            "_type": "timestamp",
            "spec_version": "1.0.0",
            "version": version,
            "expires": "2030-06-02T00:00:00Z",
            "meta": {"snapshot.json": {"version": 1}},
        }


def test_registered_roots_are_a_verified_chain(world: World) -> None:
    foreign = ForeignRepository()
    roots = [foreign.file(foreign.root(4), "root-a"), foreign.file(foreign.root(5), "root-b")]
    repository, warnings = register(world, ADMIN, name="demo", root_files=roots, development=False)
    assert (repository.state, repository.imported) == ("ACTIVE", True)
    assert "THRESHOLD_BELOW_FLOOR" in {warning.reason for warning in warnings}
    summary = state(world, SIGNER, "demo")
    assert {r.role: r.trusted_version for r in summary.roles}["root"] == 5


@pytest.mark.parametrize(
    ("versions", "signers", "reason"),
    [
        ((4, 6), ("root-a", "root-a"), "ROOT_VERSION_GAP"),
        ((4, 5), ("root-a", "targets"), "SIGNATURES_MISSING"),
        ((4,), ("targets",), "SIGNATURES_MISSING"),
    ],
)
def test_broken_chain_registers_nothing(
    world: World, versions: tuple[int, ...], signers: tuple[str, ...], reason: str
) -> None:
    foreign = ForeignRepository()
    pairs = zip(versions, signers, strict=True)
    roots = [foreign.file(foreign.root(version), signer) for version, signer in pairs]
    with pytest.raises(PolicyViolation) as refused:
        register(world, ADMIN, name="demo", root_files=roots, development=False)
    assert refused.value.reason == reason
    assert world.ledger.read(lambda view: view.repository("demo")) is None


def test_registering_is_for_the_local_administrator(world: World) -> None:
    foreign = ForeignRepository()
    with pytest.raises(NotAllowed):
        register(
            world,
            SIGNER,
            name="demo",
            root_files=[foreign.file(foreign.root(1), "root-a")],
            development=False,
        )


def test_import_raises_marks_and_contradictions_are_refused(world: World) -> None:
    foreign = ForeignRepository()
    root = foreign.file(foreign.root(1), "root-a")
    register(world, ADMIN, name="demo", root_files=[root], development=False)
    stamped = import_one(world, "timestamp", foreign.file(foreign.timestamp(40), "timestamp"))
    assert (stamped.recorded, stamped.raised_mark) == (True, True)
    twin = {**foreign.timestamp(40), "expires": "2030-06-03T00:00:00Z"}
    refused = import_one(world, "timestamp", foreign.file(twin, "timestamp"))
    assert reasons(refused) == {"VERSION_ALREADY_SIGNED_DIFFERENTLY"}
    again = import_one(world, "timestamp", foreign.file(foreign.timestamp(40), "timestamp"))
    assert (again.recorded, again.raised_mark) == (True, False)
    assert existing_repository(world, "demo").imported


def test_signatures_from_outside_complete_a_version_reserved_here(world: World) -> None:
    author = active_author(world)
    root = author.root(2)
    author.sign("root-1", "root", root, confirmed_change=author.change_digest(root))
    other, raw = author.keys["root-2"], canonical.encode(root)
    item = SignItem(other.cka_id, other.public_der, other.scheme, raw)
    outside = world.tokens.get("soft").sign([item], 10)[0]
    assert isinstance(outside, bytes)
    keyid, _ = public_keys.tuf_key(other.public_der, other.scheme)
    first = json.loads(file_of(author, "root", root, "root-1"))
    first["signatures"].append({"keyid": keyid, "sig": outside.hex()})
    assert import_one(world, "root", json.dumps(first).encode()).recorded
    found = world.ledger.read(lambda view: view.reservation("demo", "root", 0, 2))
    assert found is not None
    assert found.state is ReservationState.ACCEPTED
    made = world.ledger.read(lambda view: view.signatures(found))
    assert [signature.key for signature in made] == ["root-1", ""]
    entry = world.ledger.read(lambda view: list(view.leaves(made[1].leaf, made[1].leaf + 1)))[0]
    assert b'"event":"metadata_imported"' in entry.data


def test_the_same_file_again_changes_nothing(world: World) -> None:
    """Else whoever may import could keep every other signer's judgement from holding."""
    author = active_author(world)
    file = file_of(author, "targets", author.targets(2), "targets")
    assert import_one(world, "targets", file).recorded
    before = world.ledger.read(lambda view: (view.log_size(), view.repository("demo")))
    assert import_one(world, "targets", file).recorded
    assert world.ledger.read(lambda view: (view.log_size(), view.repository("demo"))) == before
    # The same metadata in another file: its hashes are news, the role's state is not.
    spaced = json.dumps(json.loads(file), indent=3).encode()
    assert import_one(world, "targets", spaced).recorded
    assert existing_repository(world, "demo") == before[1]


def test_what_a_file_costs_is_not_its_own_choice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifying runs where everybody's writes wait."""
    author = active_author(world)
    genuine = json.loads(file_of(author, "targets", author.targets(2), "targets"))
    keyid = genuine["signatures"][0]["keyid"]
    tried = []
    verify = public_keys.verify_metadata_signatures

    def counted(raw: bytes, *rest: Any) -> frozenset[str]:
        tried.append(raw)
        return verify(raw, *rest)

    monkeypatch.setattr(public_keys, "verify_metadata_signatures", counted)
    junk = [{"keyid": keyid, "sig": "00" * 64}] * 100
    many = json.dumps({"signatures": junk, "signed": author.targets(3)}).encode()
    assert reasons(import_one(world, "targets", many)) == {"SIGNATURES_MISSING"}
    # A root that lists keys without end is looked at by the trusted root's first.
    root = author.root(2)
    ids = [f"{number:064x}" for number in range(100)]
    root["keys"] |= dict.fromkeys(ids, root["keys"][keyid])
    root["roles"]["root"]["keyids"] += ids
    junk = [{"keyid": each, "sig": "00" * 64} for each in ids]
    many = json.dumps({"signatures": junk, "signed": root}).encode()
    assert reasons(import_one(world, "root", many)) == {"SIGNATURES_MISSING"}
    assert len(tried) <= 2


def test_a_root_that_names_nobody_for_root_is_refused(world: World) -> None:
    foreign = ForeignRepository()
    root = foreign.file(foreign.root(1), "root-a")
    register(world, ADMIN, name="demo", root_files=[root], development=False)
    heirless = foreign.root(2)
    del heirless["roles"]["root"]
    imported = import_one(world, "root", foreign.file(heirless, "root-a"))
    assert reasons(imported) == {"SIGNATURES_MISSING"}


def test_published_metadata_makes_no_tuf_key_of_an_opaque_one(world: World) -> None:
    author = active_author(world)
    author.keys["sly"] = make_key(world, "sly", content=Content.OPAQUE)
    file = signed_file(author, author.delegating(2, team=(1, ["sly"])), "targets")
    imported = import_one(world, "targets", file)
    assert (imported.recorded, reasons(imported)) == (False, {"KEY_CONTENT_MISMATCH"})


def stolen(world: World, *names: str) -> None:
    for name in names:
        change_state(
            world,
            ADMIN,
            "KeyService.MarkKeyCompromised",
            name,
            new=KeyState.COMPROMISED,
            comment="gone",
        )


def test_what_a_thief_can_sign_alone_is_not_trusted(world: World) -> None:
    author = active_author(world)
    published = file_of(author, "targets", author.targets(2), "targets")
    before = signed_file(author, author.targets(3), "targets")
    assert import_one(world, "targets", before).recorded
    stolen(world, "targets")
    imported = import_one(world, "targets", signed_file(author, author.targets(9), "targets"))
    assert (imported.recorded, reasons(imported)) == (False, {"SIGNED_BY_COMPROMISED_KEYS"})
    roles = {role.role: role for role in state(world, SIGNER, "demo").roles}
    assert (roles["targets"].trusted_version, roles["targets"].next_version) == (3, 4)
    # What is trusted stays, and facts of what was signed here are still welcome.
    assert import_one(world, "targets", published).recorded
    assert import_one(world, "targets", before).recorded


@pytest.mark.parametrize(
    ("names", "recorded"), [(("root-1",), True), (("root-1", "root-2"), False)]
)
def test_a_root_is_not_trusted_where_thieves_reach_the_old_threshold(
    world: World, names: tuple[str, ...], recorded: bool
) -> None:
    author = active_author(world)
    author.keys["root-4"] = make_key(world, "root-4")
    root = author.root(2, days=366, root=(1, ["root-4"]))
    file = signed_file(author, root, "root-1", "root-2", "root-4")
    stolen(world, *names)
    imported = import_one(world, "root", file)
    assert imported.recorded is recorded
    assert ("SIGNED_BY_COMPROMISED_KEYS" in reasons(imported)) is not recorded


def test_an_expiry_beyond_the_calendar_is_shown_as_none(world: World) -> None:
    foreign = ForeignRepository()
    root = foreign.file(foreign.root(1), "root-a")
    register(world, ADMIN, name="demo", root_files=[root], development=False)
    odd = {**foreign.timestamp(2), "expires": "0001-01-01T00:00:00+14:00"}
    assert import_one(world, "timestamp", foreign.file(odd, "timestamp")).recorded
    shown = {role.role: role.expires for role in state(world, SIGNER, "demo").roles}
    assert shown["timestamp"] is None
