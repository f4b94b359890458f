"""Plans and policies: an officer sees what the digest is of, and nothing that a daemon says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.cli.case import Case
from keyd.domain.operations import AcceptPolicy, StartRotation
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.plan import Plan, SignatureNeed, Step, StepKind, to_json
from tests.root_versions import fingerprint, signer
from tests.unit.cli.desk import Desk, reason

GRANT = """
[[grant]]
name = "g"
principals = ["unix:admin"]
methods = ["KeyService.GetKey"]
keys = ["k"]
"""
WIDER = GRANT.replace('keys = ["k"]', "any_key = true")
Touch = Callable[[dict[str, Any]], None]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def plan(text: str = "sign team 3: its keys changed") -> Plan:
    key = NewKey("laptop", "mallory", signer(4).public_key.to_dict())
    change = RoleChange("team", (key,), (fingerprint(3),), threshold=1)
    return Plan(
        ChangeSet(RotationKind.DELEGATED, "demo", (change,), reason="as planned"),
        (Step(0, StepKind.SIGN, text, "team", 3),),
        (SignatureNeed(0, "", 1, ("laptop (mallory)",), ("mallory",)),),
        (fingerprint(3),),
        ("laptop",),
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def start(desk: Desk, made: Plan) -> Case:
    return desk.case(StartRotation("demo", made.digest), made.raw)


def accept(desk: Desk, new: str, old: str = GRANT) -> Case:
    revision = sha256(old)
    return desk.case(AcceptPolicy(sha256(new)), new.encode(), old.encode(), revision)


def unkept(case: Case) -> Case:
    """A proposal of a daemon that kept no bytes of plans and policies."""
    return replace(case, payload=b"", basis=replace(case.basis, payload_sha256=""))


def test_a_plan_is_shown_with_every_key_and_threshold(desk: Desk) -> None:
    made = plan()
    result = desk.approve(start(desk, made))
    assert result.exit_code == 0, result.output
    for line in (
        "delegated of demo",
        "1. sign team 3: its keys changed",
        "team: 1 of laptop (mallory); asked of mallory",
        f"role team: key added: {fingerprint(4)}, laptop of mallory",
        f"role team: key removed: {fingerprint(3)}",
        "role team: threshold becomes 1",
        f"plan {made.digest}",
    ):
        assert line in result.output
    grouped = " ".join(made.digest[at : at + 8] for at in range(0, 64, 8))
    assert f"SHA-256    {grouped}" in result.output, "read aloud: what rotate plan prints"


def test_a_policy_is_shown_against_the_one_in_force(desk: Desk) -> None:
    result = desk.approve(accept(desk, WIDER))
    assert result.exit_code == 0, result.output
    assert f"changes against the policy {sha256(GRANT)}:" in result.output
    assert "permits more: grant 'g' (line 2) allows more than any grant did" in result.output
    assert '-keys = ["k"]' in result.output
    assert "+any_key = true" in result.output


def other_bytes(content: dict[str, Any]) -> None:
    content["payload"] = "e30="


def other_digest(content: dict[str, Any]) -> None:
    content["basis"]["payload_sha256"] = "ab" * 32


@pytest.mark.parametrize("touch", [other_bytes, other_digest])
def test_bytes_are_hashed_here(desk: Desk, touch: Touch) -> None:
    for case in (start(desk, plan()), accept(desk, WIDER)):
        assert reason(desk.approve(case, touch=touch)) == "DIGEST_MISMATCH"
    assert not desk.out.exists()


def test_bytes_that_are_left_out_are_asked_for(desk: Desk) -> None:
    def left_out(content: dict[str, Any]) -> None:
        content["payload"] = ""

    for case in (start(desk, plan()), accept(desk, WIDER)):
        assert reason(desk.approve(case, touch=left_out)) == "PAYLOAD_MISSING"


def test_where_only_a_digest_is_known_nothing_is_approved(desk: Desk) -> None:
    for case in (start(desk, plan()), accept(desk, WIDER)):
        desk.out.unlink(missing_ok=True)
        result = desk.approve(unkept(case))
        assert reason(result) == "DIFFERENCE_UNKNOWN"
        assert "is not in the proposal, only its digest" in result.output
        assert "NOT KNOWN" in result.output
        assert not desk.out.exists()
        blind = desk.approve(unkept(case), "--without-difference")
        assert (blind.exit_code, "WARNING" in blind.output) == (0, True)


def test_own_copies_are_shown_instead(desk: Desk) -> None:
    made, file = plan(), desk.folder / "own"
    for content in (made.raw, json.dumps({"plan": {"plan": to_json(made)}}).encode()):
        file.write_bytes(content)
        result = desk.approve(unkept(start(desk, made)), "--payload", str(file))
        assert (result.exit_code, "key added" in result.output) == (0, True)
    file.write_text(WIDER)
    result = desk.approve(unkept(accept(desk, WIDER)), "--payload", str(file))
    assert (result.exit_code, "+any_key = true" in result.output) == (0, True)
    other = desk.approve(start(desk, made), "--payload", str(file))
    assert reason(other) == "DIGEST_MISMATCH"


def test_a_policy_in_force_that_nobody_can_see_is_a_doubt(desk: Desk) -> None:
    unseen = replace(accept(desk, WIDER), trusted=b"")
    result = desk.approve(unseen)
    assert reason(result) == "DIFFERENCE_UNKNOWN"
    assert "+any_key = true" in result.output, "the whole file is new then"
    own = desk.folder / "policy.toml"
    own.write_text(GRANT)
    assert desk.approve(unseen, "--trusted", str(own)).exit_code == 0
    own.write_text(GRANT + "# another\n")
    assert reason(desk.approve(unseen, "--trusted", str(own))) == "DIGEST_MISMATCH"


def test_a_daemon_cannot_compare_with_another_policy_than_the_one_in_force(desk: Desk) -> None:
    hidden = replace(accept(desk, WIDER), trusted=WIDER.encode())
    assert reason(desk.approve(hidden)) == "DIGEST_MISMATCH"


def test_what_is_no_policy_is_a_doubt(desk: Desk) -> None:
    result = desk.approve(accept(desk, "grant = 1\n"))
    assert reason(result) == "DIFFERENCE_UNKNOWN"
    assert "the policy cannot be read (" in result.output


@pytest.mark.parametrize(
    "raw",
    [b"{}", b"[]", b"no JSON", plan().raw + b" ", plan().raw.replace(b'"step":0', b'"step":7')],
    ids=["empty", "list", "text", "other form", "no such step"],
)
def test_what_is_no_plan_is_not_approved(desk: Desk, raw: bytes) -> None:
    operation = StartRotation("demo", hashlib.sha256(raw).hexdigest())
    assert reason(desk.approve(desk.case(operation, raw))) == "PLAN_UNREADABLE"


def test_a_plan_of_another_repository_is_not_approved(desk: Desk) -> None:
    made = plan()
    case = desk.case(StartRotation("other", made.digest), made.raw)
    assert reason(desk.approve(case)) == "DIGEST_MISMATCH"


def test_no_terminal_does_what_a_plan_or_policy_says(desk: Desk) -> None:
    bad = "\x1b[2K\x9b2J\u202e\nplan"
    policy = GRANT + f"# {bad}"
    for case in (start(desk, plan(f"sign team 3{bad}")), accept(desk, policy)):
        shown = desk.approve(case, "--without-difference").output
        assert "\\x1b[2K\\x9b2J\\u202e" in shown
        assert not set("\x1b\x9b\u202e") & set(shown)
