"""Officers with tokens of their own decide on a running daemon's proposals, online and offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd_client import PendingApproval
from keyd_client.errors import ApprovalRequired, DeadlineExceeded, ProposalEnded
from tests.authors import Signed
from tests.daemon import Installation
from tests.officer_site import Desk, Person, new_person
from tests.recording import Recorder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    folder = tmp_path_factory.mktemp("people")
    return {name: new_person(folder, name) for name in ("alice", "bob", "carol")}


@pytest.fixture
def desk(installation: Installation, people: dict[str, Person]) -> Iterator[Desk]:
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        made = Desk(installation, people)
        made.genesis()
        yield made
        assert daemon.stop() == 0


@contextmanager
def renewing(desk: Desk) -> Iterator[tuple[Recorder, Signed, bytes]]:
    """A client that wants root 2 signed; with its payload and the change that was read."""
    with desk.installation.client("release") as client:
        recorder = Recorder(client, "demo")
        root = recorder.writer.root(2, days=370)
        yield recorder, root, recorder.change_digest(root)


def ask(recorder: Recorder, root: Signed, change: bytes) -> PendingApproval:
    pending = recorder.client.sign_or_propose(
        "root-1", canonical.encode(root), role="root", confirmed_change=change
    )
    assert isinstance(pending, PendingApproval)
    return pending


def test_two_of_three_approve_a_root_one_of_them_offline(desk: Desk, tmp_path: Path) -> None:
    with renewing(desk) as (recorder, root, change):
        with pytest.raises(ApprovalRequired, match=r"^APPROVAL_REQUIRED: .*2 officers") as refused:
            recorder.sign("root-1", "root", root, change)
        assert "\n" not in str(refused.value)
        pending = ask(recorder, root, change)
        name = pending.proposal
        assert ask(recorder, root, change).proposal == name
        with pytest.raises(DeadlineExceeded, match="APPROVAL_PENDING"):
            pending.wait(0)

        shown = desk.json("proposal", "show", name)["judged"]
        assert shown["digest"] == shown["basis"]["payload_sha256"]
        assert len(shown["digest_words"]) == 32
        assert "version: 1 -> 2" in shown["changes"]
        assert desk.approve("alice", name)["approved"] is False

        bob = desk.people["bob"]
        file, envelope = tmp_path / "case.json", tmp_path / "bob.dsse"
        desk.json("proposal", "statement", name, "--officer", "bob", "--out", file)
        offline = bob.keyd(
            "approve", "--statement", file, *bob.key, "--out", envelope, "--confirm", name
        )
        assert offline.code == 0, offline.err
        assert "version: 1 -> 2" in offline.err
        stands = desk.json("proposal", "import", envelope)["proposal"]
        assert stands["approved"] is True

        signature = pending.wait(30)
        assert signature.role == "root"
        # The next signer of the same bytes joins: nobody is asked twice.
        assert recorder.sign("root-2", "root", root, change).accepted
        again = desk.keyd("proposal", "import", envelope)
        assert again.code == 1
        assert "PROPOSAL_DECIDED" in again.err
    verified = desk.keyd("proposal", "list", "--all", "--json").json["proposals"]
    assert [each["state"] for each in verified] == ["EXECUTED"]


def test_what_does_not_count(desk: Desk, tmp_path: Path) -> None:
    with renewing(desk) as (recorder, root, change):
        name = ask(recorder, root, change).proposal
    proposer = desk.decide("approve", "carol", name)
    assert proposer.code == 77
    assert proposer.json["error"]["reason"] == "PROPOSER_CANNOT_APPROVE"

    bob = desk.people["bob"]
    wrong = bob.keyd(
        "proposal", "approve", name, "--officer", "alice", *bob.key, "--confirm", name,
        environment=desk.profiles("admin"),
    )  # fmt: skip
    assert wrong.code == 77
    assert "OFFICER_KEY_UNKNOWN" in wrong.err

    desk.approve("alice", name)
    twice = desk.decide("approve", "alice", name)
    assert twice.json["error"]["reason"] == "APPROVAL_REPEATED"

    file, envelope = tmp_path / "case.json", tmp_path / "bob.dsse"
    desk.json("proposal", "statement", name, "--officer", "bob", "--out", file)
    assert (
        bob.keyd("approve", "--statement", file, *bob.key, "--out", envelope, "--confirm", name)
    ).code == 0
    spoilt = tmp_path / "spoilt.dsse"
    spoilt.write_bytes(envelope.read_bytes() + b" ")
    assert "ENVELOPE_MALFORMED" in desk.keyd("proposal", "import", spoilt).err
    assert desk.json("proposal", "show", name)["proposal"]["approved"] is False


def test_an_envelope_is_for_one_proposal_only(desk: Desk, tmp_path: Path) -> None:
    first = desk.json("proposal", "create", "--base-rule", "1", principal="release")
    assert first["proposal"]["approved"] is False
    name = first["proposal"]["name"]
    bob = desk.people["bob"]
    file, envelope = tmp_path / "case.json", tmp_path / "bob.dsse"
    desk.json("proposal", "statement", name, "--officer", "bob", "--out", file)
    bob.keyd("approve", "--statement", file, *bob.key, "--out", envelope, "--confirm", name)
    desk.json("proposal", "cancel", name, principal="release")
    second = desk.json("proposal", "create", "--base-rule", "1", principal="release")["proposal"]
    assert second["name"] != name
    assert "PROPOSAL_DECIDED" in desk.keyd("proposal", "import", envelope).err
    with desk.installation.client() as client, pytest.raises(Exception, match="OTHER_PROPOSAL"):
        client.proposals.decide(second["name"], envelope.read_bytes())


def test_a_statement_that_was_touched_is_not_signed(desk: Desk, tmp_path: Path) -> None:
    with renewing(desk) as (recorder, root, change):
        name = ask(recorder, root, change).proposal
    bob, file = desk.people["bob"], tmp_path / "case.json"
    desk.json("proposal", "statement", name, "--officer", "bob", "--out", file)
    document = json.loads(file.read_text())
    for member, value in (("operation_sha256", "00" * 32), ("payload_sha256", "11" * 32)):
        touched = {**document, "basis": {**document["basis"], member: value}}
        file.write_text(json.dumps(touched))
        out = tmp_path / "bob.dsse"
        done = bob.keyd("approve", "--statement", file, *bob.key, "--out", out, "--confirm", name)
        assert done.code == 1
        assert "DIGEST_MISMATCH: do not approve this" in done.err
        assert not out.exists()
    other = tmp_path / "2.root.json"
    other.write_bytes(canonical.encode({**root, "version": 3}))
    refused = desk.decide("approve", "alice", name, "--payload", other)
    assert refused.json["error"]["reason"] == "DIGEST_MISMATCH"


def test_two_rejections_end_it_and_whoever_waits_is_told(desk: Desk) -> None:
    with renewing(desk) as (recorder, root, change):
        pending = ask(recorder, root, change)
        for name in ("alice", "bob"):
            desk.decide("reject", name, pending.proposal)
        with pytest.raises(ProposalEnded, match="PROPOSAL_REJECTED"):
            pending.wait(30)


def test_a_lost_officer_is_replaced_and_revoked(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dora = new_person(tmp_path_factory.mktemp("dora"), "dora")
    enrolled = desk.json("officer", "enrol", "dora", "--public-key", dora.pem, "--group", "qa")
    name = enrolled["proposal"]["name"]
    early = desk.keyd("proposal", "execute", name, "--confirm", name)
    assert early.code == 77
    for officer in ("alice", "bob"):
        desk.approve(officer, name)
    asked = desk.keyd("proposal", "execute", name)
    assert asked.code == 2
    assert desk.json("proposal", "execute", name, "--confirm", name)["proposal"]["state"]
    revoked = desk.json("officer", "revoke", "bob", "--compromised")["proposal"]["name"]
    assert desk.decide("approve", "bob", revoked).json["error"]["reason"] == "OFFICER_CONCERNED"
    for officer in ("alice", "carol"):
        desk.approve(officer, revoked)
    desk.json("proposal", "execute", revoked, "--confirm", revoked)
    states = {each["name"]: each["state"] for each in desk.json("officer", "list")["officers"]}
    assert states == {
        "alice": "ENROLLED",
        "bob": "REVOKED",
        "carol": "ENROLLED",
        "dora": "ENROLLED",
    }
    # One more would leave two, and the loss of one of those could not be mended.
    last = desk.json("officer", "revoke", "dora")["proposal"]["name"]
    for officer in ("alice", "carol"):
        desk.approve(officer, last)
    refused = desk.keyd("proposal", "execute", last, "--confirm", last)
    assert refused.code == 1
    assert "QUORUM_WITHOUT_RESERVE" in refused.err


def test_a_successor_is_enrolled_as_was_said(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dora = new_person(tmp_path_factory.mktemp("dora"), "dora")
    said = ("--group", "qa", "--group", "ops", "--principal", "unix:dora", "--kind", "pkcs11")
    proposed = desk.json("officer", "succeed", "bob", "dora", "--public-key", dora.pem, *said)
    name = proposed["proposal"]["name"]
    for officer in ("alice", "carol"):
        desk.approve(officer, name)
    desk.json("proposal", "execute", name, "--confirm", name)
    found = {each["name"]: each for each in desk.json("officer", "list")["officers"]}
    assert (found["bob"]["state"], found["dora"]["state"]) == ("REVOKED", "ENROLLED")
    assert found["dora"]["groups"] == ["ops", "qa"]
    assert found["dora"]["principals"] == ["unix:dora"]


def test_an_approved_root_is_signed_by_executing_the_proposal(desk: Desk, tmp_path: Path) -> None:
    with renewing(desk) as (recorder, root, change):
        name = ask(recorder, root, change).proposal
    signing = ("proposal", "execute", name, "--confirm", name)
    asked = desk.keyd(*signing)
    assert asked.code == 2
    assert f"keyd proposal execute {name} --key KEY" in asked.err
    early = desk.keyd(*signing, "--key", "root-1", "--json")
    assert early.json["error"]["reason"] == "APPROVAL_REQUIRED"

    desk.approve("alice", name)
    desk.approve("bob", name)
    file = tmp_path / "2.root.json"
    first = desk.json(*signing, "--key", "root-1", "--output", file)
    assert first["proposal"]["state"] == "EXECUTED"
    assert not first["signatures"][0].get("accepted")
    again = desk.json(*signing, "--key", "root-1", "--key", "root-2", "--output", file)
    assert again["signatures"][0]["signature"] == first["signatures"][0]["signature"]
    assert again["signatures"][1]["accepted"] is True
    written = json.loads(file.read_text())
    assert written["signed"] == root
    assert len(written["signatures"]) == 2
    assert desk.keyd(*signing, "--key", "targets").code != 0


RULE = """
[[quorum]]
name = "two"
methods = ["KeyService.CreateKey", "SigningService.SignOpaque"]
any_key = true
any_token = true
officers = 2
"""


def approved(desk: Desk, *what: str | Path) -> str:
    """The name of a proposal that two officers agreed to."""
    name: str = desk.json("proposal", "create", *what)["proposal"]["name"]
    for officer in ("alice", "bob"):
        desk.approve(officer, name)
    return name


def test_keys_and_opaque_signatures_are_carried_out_where_a_rule_asks(
    installation: Installation, people: dict[str, Person], tmp_path: Path
) -> None:
    installation.policy.write_text(installation.policy.read_text() + RULE)
    data, other = tmp_path / "layout.bin", tmp_path / "other.bin"
    data.write_bytes(b"a layout")
    other.write_bytes(b"another layout")
    desk = Desk(installation, people)
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        desk.genesis()
        name = approved(desk, "--sign-opaque", "layouts", data)
        signing = ("proposal", "execute", name, "--confirm", name)
        asked = desk.keyd(*signing)
        assert (asked.code, f"keyd proposal execute {name} --data FILE" in asked.err) == (2, True)
        assert "DIGEST_MISMATCH" in desk.keyd(*signing, "--data", other).err
        assert desk.json(*signing, "--data", data)["signatures"][0]["signature"]

        name = approved(desk, "--create-key", "root-9", "hsm", "ed25519", "tuf")
        refused = desk.keyd("key", "create", "root-8", "--token", "hsm", "--json")
        assert refused.json["error"]["reason"] == "APPROVAL_REQUIRED"
        desk.json("proposal", "execute", name, "--confirm", name)
        with installation.client() as client:
            assert client.keys.get("root-9").scheme == "ed25519"
        assert daemon.stop() == 0


DELEGATED = ("delegated", "--role", "team-a", "--replace", "--add", "team-a2@hsm")


def test_a_rotation_of_a_delegated_role_is_seen_before_it_is_approved(
    desk: Desk, tmp_path: Path
) -> None:
    """No root follows, about which officers would be asked once more."""
    planned = desk.json("rotate", "plan", *DELEGATED)["plan"]
    own = tmp_path / "plan.json"
    own.write_text(json.dumps({"plan": planned}))
    start = ("rotate", "start", *DELEGATED, "--confirm", planned["digest"])
    refused = desk.keyd(*start, "--json")
    assert refused.code == 77, refused.err
    name = refused.json["error"]["details"]["proposal"]

    shown = desk.keyd("proposal", "show", name, "--payload", own)
    assert shown.code == 0, shown.err
    assert "WARNING" not in shown.out
    assert desk.approve("alice", name)["approved"] is False
    bob = desk.people["bob"]
    file, envelope = tmp_path / "case.json", tmp_path / "bob.dsse"
    desk.json("proposal", "statement", name, "--officer", "bob", "--out", file)
    said = ("--statement", file, *bob.key, "--out", envelope, "--confirm", name)
    offline = bob.keyd("approve", *said)
    assert offline.code == 0, offline.err
    for line in ("key added: team-a2, on token hsm", f"plan {planned['digest']}"):
        assert line in shown.out
        assert line in offline.err
    desk.json("proposal", "import", envelope)
    started = desk.keyd(*start)
    assert started.code == 0, started.err
