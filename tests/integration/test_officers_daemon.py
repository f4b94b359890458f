"""Officers and a running daemon: every kind of proposal, envelopes that do not count, loosened
policies, and deaths in the middle of a decision."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from keyd.cli.case import case_of
from keyd.domain import canonical, operations
from keyd.domain.approval import Basis, Decision
from keyd.domain.officers import OfficerSet
from keyd.domain.operations import ChangeOfficer, Operation, SetBaseRule, SetRoleRules
from keyd.domain.rule_levels import rules_text
from keyd.domain.trust import RoleRules
from keyd.ledger.verification.verify import verify_ledger
from keyd.rpc.convert_officers import officers_out
from keyd_client import Client, KeydRepository, KeydSigner, Profile, RoleKeys
from keyd_client.errors import (
    ApprovalPending,
    ApprovalRequired,
    DeadlineExceeded,
    KeydClientError,
    NotAllowed,
    ProposalEnded,
)
from keyd_client.roles import TOP_LEVEL
from tests.daemon import TOKEN, Installation
from tests.officers import Person, person
from tests.recording import Recorder
from tests.running import Daemon

LOOSER = """
[[grant]]
name = "late"
principals = ["unix:late"]
methods = ["KeyService.ListKeys"]
"""


@dataclass
class Court:
    """A daemon with three officers whose keys this process holds; two of them decide."""

    installation: Installation
    client: Client
    people: dict[str, Person]

    def basis(self, proposal: str) -> Basis:
        return case_of(self.client.proposals.get(proposal), None).basis

    def approve(self, proposal: str, *names: str) -> None:
        basis = self.basis(proposal)
        for name in names or ("alice", "bob"):
            self.client.proposals.decide(proposal, self.people[name].envelope(basis))

    def propose(self, operation: Operation) -> str:
        return self.client.proposals.create(operations.encode(operation)).name

    def created(self, *arguments: str | Path) -> dict[str, Any]:
        """What `keyd proposal create` made, which `keyd proposal show` understands."""
        done = self.installation.keyd("proposal", "create", *arguments, "--json")
        assert done.code == 0, done.err
        made: dict[str, Any] = done.json["proposal"]
        shown = self.installation.keyd("proposal", "show", made["name"])
        assert shown.code == 0, shown.err
        assert "WARNING" not in shown.out
        return made

    def carried_out(self, *arguments: str | Path) -> None:
        """Created, approved, executed, all but the approvals by commands."""
        name = self.created(*arguments)["name"]
        self.approve(name)
        done = self.installation.keyd("proposal", "execute", name, "--confirm", name, "--json")
        assert done.code == 0, done.err
        assert done.json["proposal"]["state"].endswith("EXECUTED")

    def imported(self, envelope: bytes, folder: Path) -> tuple[int, str]:
        """How `keyd proposal import` ends."""
        file = folder / "some.dsse"
        file.write_bytes(envelope)
        done = self.installation.keyd("proposal", "import", file)
        return done.code, done.err


@contextmanager
def served(installation: Installation, failpoint: str = "") -> Iterator[tuple[Daemon, Client]]:
    with installation.serve(failpoint) as daemon, installation.client() as client:
        daemon.wait_for("daemon_ready")
        yield daemon, client


def enrol(client: Client) -> dict[str, Person]:
    people = {name: person(name) for name in ("alice", "bob", "carol")}
    officers = OfficerSet(tuple(each.officer for each in people.values()))
    client.officers.enrol_first(officers_out(officers), 2)
    return people


@pytest.fixture
def court(installation: Installation) -> Iterator[Court]:
    with served(installation) as (daemon, client):
        yield Court(installation, client, enrol(client))
        assert daemon.stop() == 0
    assert verify_ledger(installation.ledger).sound


def test_every_kind_of_proposal_through_the_command_line(court: Court, tmp_path: Path) -> None:
    recorder = Recorder(court.client, "demo")

    def file(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    def metadata(root: dict[str, Any]) -> Path:
        whole = {"signed": root, "signatures": []}
        return file(f"{root['version']}.root.json", json.dumps(whole).encode())

    wrong = recorder.writer.root(2, days=370)
    court.approve(court.created("--sign", metadata(wrong))["name"])
    recorder.sign("root-1", "root", wrong, recorder.change_digest(wrong))
    court.carried_out("--void", "root", "2")
    right = recorder.writer.root(2, days=371)
    court.approve(court.created("--sign", metadata(right))["name"])
    for key in ("root-1", "root-2"):
        recorder.sign(key, "root", right, recorder.change_digest(right))

    court.client.keys.deactivate("team-a", comment="a while")
    court.carried_out("--key-state", "team-a", "ACTIVE")
    assert court.client.keys.get("team-a").state

    rules = replace(RoleRules(), payload_max_bytes=1_000_000)
    looser = SetRoleRules("demo", "team-b", rules_text(rules))
    court.carried_out("--operation", file("rules.json", operations.encode(looser)))

    dora = ChangeOfficer.to(person("dora").officer, None)
    court.carried_out("--operation", file("dora.json", operations.encode(dora)))
    court.carried_out("--base-rule", "3")
    listed = court.client.officers.list()
    assert (listed.base_threshold, len(listed.officers)) == (3, 4)

    court.people["bob"], third = court.people["bob"], court.people["carol"]
    policy = court.installation.policy.read_text() + LOOSER
    name = court.created("--accept-policy", file("policy.toml", policy.encode()))["name"]
    court.approve(name)
    early = court.installation.keyd("proposal", "execute", name, "--confirm", name)
    assert (early.code, "lacks 1 more of 3 officers" in early.err) == (77, True)
    court.approve(name, third.name)
    done = court.installation.keyd("proposal", "execute", name, "--confirm", name)
    assert done.code == 0, done.err


def test_envelopes_for_another_daemon_and_bent_ones_do_not_count(
    court: Court, tmp_path: Path
) -> None:
    name = court.propose(SetBaseRule(2))
    basis, alice = court.basis(name), court.people["alice"]
    refused = [
        (alice.envelope(replace(basis, daemon="another")), "STATEMENT_FOREIGN_DAEMON", 77),
        (alice.envelope(replace(basis, policy_revision="ab" * 32)), "STATEMENT_STALE", 77),
        (alice.envelope(replace(basis, expires="2039-01-01T00:00:00Z")), "STATEMENT_STALE", 77),
        (alice.envelope(replace(basis, payload_sha256="ab" * 32)), "STATEMENT_STALE", 77),
        (alice.envelope(basis)[:-1], "ENVELOPE_MALFORMED", 1),
        (replace(alice, name="bob").envelope(basis), "OFFICER_KEY_UNKNOWN", 77),
        (person("alice").envelope(basis), "OFFICER_KEY_UNKNOWN", 77),
    ]
    for envelope, reason, code in refused:
        assert (court.imported(envelope, tmp_path)[0], reason) == (code, reason)
        assert reason in court.imported(envelope, tmp_path)[1]
    assert court.imported(alice.envelope(basis), tmp_path)[0] == 0
    assert "APPROVAL_REPEATED" in court.imported(alice.envelope(basis), tmp_path)[1]


def test_a_proposal_is_overtaken_by_a_change_of_the_officers(court: Court, tmp_path: Path) -> None:
    recorder = Recorder(court.client, "demo")
    root = recorder.writer.root(2, days=370)
    change = recorder.change_digest(root)

    def ask() -> Any:
        return court.client.sign_or_propose(
            "root-1",
            canonical.encode(root),
            repository="demo",
            role="root",
            confirmed_change=change,
        )

    pending = ask()
    court.approve(pending.proposal)
    late = court.people["carol"].envelope(court.basis(pending.proposal))
    dora = court.propose(ChangeOfficer.to(person("dora").officer, None))
    court.approve(dora)
    court.client.proposals.execute(dora)

    with pytest.raises(ProposalEnded, match="PROPOSAL_OVERTAKEN"):
        pending.wait(30)
    code, err = court.imported(late, tmp_path)
    assert (code, "PROPOSAL_STALE" in err) == (77, True)
    shown = court.installation.keyd("proposal", "show", pending.proposal)
    assert shown.code == 0, shown.err
    assert "overtaken: officers changed" in shown.out
    # What two officers had approved signs nothing any more; it is proposed anew.
    with pytest.raises(KeydClientError, match="APPROVAL_REQUIRED"):
        recorder.sign("root-1", "root", root, change)
    again = ask()
    assert again.proposal != pending.proposal
    court.approve(again.proposal)
    assert again.wait(30).role == "root"


def test_a_loosened_policy_waits_for_officers(installation: Installation) -> None:
    """On SIGHUP, and at a start: the old one stays in force, and the daemon says so."""
    config = installation.config
    late = f'[[listen.unix]]\npath = "{installation.root}/run/late/s"\nprincipal = "late"\n'
    config.write_text(config.read_text() + late)
    old = installation.policy.read_text()

    def tried() -> str:
        try:
            with installation.client("late") as client:
                list(client.keys.list())
        except NotAllowed as refused:
            return refused.reason
        return "allowed"

    with served(installation) as (daemon, client):
        court = Court(installation, client, enrol(client))
        installation.policy.write_text(old + LOOSER)
        daemon.send(signal.SIGHUP)
        refused = daemon.wait_for("reload_refused")
        assert refused["reason"] == "POLICY_LOOSENED"
        assert refused["level"] == "error"
        assert "late" in refused["message"]
        assert tried() == "POLICY_DENIES"
        assert daemon.stop() == 0

    with served(installation) as (daemon, client):
        court.client = client
        held = daemon.wait_for("policy_refused")
        assert (held["reason"], held["level"]) == ("POLICY_LOOSENED", "critical")
        assert tried() == "POLICY_DENIES"
        court.carried_out("--accept-policy", installation.policy)
        assert tried() == "POLICY_DENIES"
        daemon.send(signal.SIGHUP)
        daemon.wait_for("reloaded")
        assert tried() == "allowed"
        assert daemon.stop() == 0


@pytest.mark.parametrize("step", ["decide", "execute"])
@pytest.mark.parametrize(
    ("failpoint", "kept"), [("ledger.group_written", False), ("ledger.group_committed", True)]
)
def test_a_killed_daemon_leaves_whole_decisions(
    installation: Installation, step: str, failpoint: str, kept: bool
) -> None:
    """Before the commit nothing of it is there, after it everything; the other half can be had."""
    with served(installation, failpoint) as (daemon, client):
        court = Court(installation, client, enrol(client))
        name = court.propose(SetBaseRule(1 + 1))
        if step == "execute":
            court.approve(name)
        installation.arm()
        with pytest.raises(KeydClientError):
            once(court, step, name)
        assert daemon.running.wait(30) == -signal.SIGKILL
    installation.disarm()
    assert verify_ledger(installation.ledger).sound

    with served(installation) as (daemon, client):
        court.client = client
        found = client.proposals.get(name).proposal
        state = {"decide": len(found.approvals) == 1, "execute": found.state == 2}[step]
        assert state is kept
        if kept:
            with pytest.raises(KeydClientError, match=r"APPROVAL_REPEATED|APPROVAL_REQUIRED"):
                once(court, step, name)
        else:
            once(court, step, name)
        if step == "decide":
            court.approve(name, "bob")
            client.proposals.execute(name)
        assert daemon.stop() == 0
    assert verify_ledger(installation.ledger).sound


def once(court: Court, step: str, name: str) -> None:
    """One call, with no patience of the SDK's in between."""
    if step == "execute":
        court.client.proposals.execute(name, timeout_s=3)
        return
    envelope = court.people["alice"].envelope(court.basis(name), Decision.APPROVE)
    court.client.proposals.decide(name, envelope, timeout_s=3)


def test_a_repository_waits_for_officers_and_goes_on(court: Court, tmp_path: Path) -> None:
    """Root 1, and a later root: each edit stops with what can be waited for, then is published."""
    keys = [f"second-{number}" for number in range(8)]
    for key in keys:
        court.client.keys.create(key, TOKEN)
    ones = {role: RoleKeys(1, [keys[n]]) for n, role in enumerate(TOP_LEVEL) if role != "root"}
    roles = {"root": RoleKeys(2, keys[4:7]), **ones}
    profile = Profile(f"unix:{court.installation.socket()}", timeout_s=30)
    repository = KeydRepository(tmp_path, profile, "second", confirm_root_change=lambda _: True)

    def waited_for(refused: ApprovalPending, version: int) -> None:
        pending = refused.pending
        assert f"keyd proposal show {pending.proposal}" in str(refused)
        assert "\n" not in str(refused)
        with pytest.raises(DeadlineExceeded, match="APPROVAL_PENDING"):
            pending.wait(0)
        court.approve(pending.proposal)
        assert (pending.wait(30).role, pending.wait(0).version) == ("root", version)

    with pytest.raises(ApprovalPending) as first:
        repository.initialize(roles)
    waited_for(first.value, 1)
    repository.add_targets({"hello.txt": b"hello"})
    repository.publish()
    with pytest.raises(ApprovalPending) as second:
        repository.set_role_keys("root", RoleKeys(2, [*keys[4:6], keys[7]]))
    waited_for(second.value, 2)
    repository.publish()
    published = {path.name for path in (tmp_path / "metadata").iterdir()}
    assert {"1.root.json", "2.root.json", "timestamp.json"} <= published
    newest = Metadata.from_file(str(tmp_path / "metadata" / "2.root.json"))
    assert len(newest.signatures) >= 2


def test_a_signer_names_the_proposal_in_one_line(court: Court) -> None:
    recorder = Recorder(court.client, "demo")
    payload = canonical.encode(recorder.writer.root(2, days=370))
    profile = Profile(f"unix:{court.installation.socket()}", timeout_s=30)
    signer = KeydSigner(profile, "root-1", recorder.public_key("root-1"))
    bound = signer.for_role("demo", "root", lambda _: True)
    lines = set()
    for _ in range(2):
        with pytest.raises(ApprovalRequired) as refused:
            bound.sign(payload)
        lines.add(str(refused.value))
    [line] = lines
    [proposal] = court.client.proposals.list()
    assert line == (
        f"APPROVAL_REQUIRED: 2 officers must agree to proposal {proposal.name} first: "
        f"keyd proposal show {proposal.name}"
    )
    court.approve(proposal.name)
    assert bound.sign(payload).keyid == recorder.public_key("root-1").keyid


def test_a_loss_that_nobody_could_propose_to_mend_is_told_beforehand(
    installation: Installation,
) -> None:
    with served(installation) as (daemon, client):
        people = {
            "alice": person("alice", principals=["unix:admin"]),
            "bob": person("bob", principals=["unix:release"]),
            "carol": person("carol"),
        }
        officers = OfficerSet(tuple(each.officer for each in people.values()))
        client.officers.enrol_first(officers_out(officers), 2)
        court = Court(installation, client, people)
        told = "keep a caller who may propose and is none of the officers"
        assert told in installation.keyd("officer", "list").out
        checks = installation.keyd("doctor", "--json").json["checks"]
        [found] = [check for check in checks if check["name"] == "officers"]
        assert (found["verdict"], told in found["message"]) == ("warn", True)
        lost = people["carol"]
        with pytest.raises(KeydClientError, match="QUORUM_UNREACHABLE"):
            court.propose(ChangeOfficer.to(lost.with_new_key().officer, lost.officer))
        assert daemon.stop() == 0
