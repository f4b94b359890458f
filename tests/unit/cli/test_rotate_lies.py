"""`keyd rotate` shows what it computed, whatever a daemon says of plans and payloads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ed25519

from keyd.cli import rotate as commands
from keyd.cli import rotation_receipt
from keyd.cli.exits import Exit
from keyd.cli.rotate import rotate
from keyd.domain import dsse
from keyd.domain.checkpoint import LogKey
from keyd.domain.receipts import PAYLOAD_TYPE, ReservationReceipt
from keyd.domain.records import Reservation, ReservationState
from keyd.domain.rotation.changes import ChangeSet, RoleChange, RotationKind
from keyd.domain.rotation.found import refused, warned
from keyd.domain.rotation.plan import Plan, Step, StepKind, table
from keyd.errors import Finding, KeydError
from keyd.rpc.convert import findings_out
from keyd.rpc.convert_rotations import plan_out
from keyd.services.rotation.planning import Planned
from keyd_client.messages import GetReceiptResponse, PlanRotationResponse
from tests.fakes import TestClock, public_der
from tests.root_versions import RootVersion, fingerprint, root_bytes, root_file

ESCAPE = "\x1b[2K\x9b\u202e"
FIRST = RootVersion(keys=(1, 2, 3), threshold=2, signed_by=(1, 2))
SECOND = RootVersion(keys=(2, 3, 4), threshold=2, signed_by=(2, 3))


def plan(text: str = "sign timestamp 3", *findings: Finding) -> Plan:
    change = RoleChange("timestamp", remove=(fingerprint(1),))
    return Plan(
        ChangeSet(RotationKind.TIMESTAMP, "demo", (change,)),
        (Step(0, StepKind.SIGN, text, "timestamp", 3),),
        needs=(),
        leaves=(),
        enters=(),
        findings=findings,
    )


def answer(made: Plan, **lies: Any) -> PlanRotationResponse:
    told = plan_out(Planned(made.digest, table(made), made.raw, made.findings))
    for name, value in lies.items():
        told.ClearField(name)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(told, name).extend(value)
        else:
            setattr(told, name, value)
    return PlanRotationResponse(plan=told)


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command of the group, whose daemon answers what is given."""

    def ran(rotations: dict[str, Any], *arguments: str | Path) -> Result:
        calls = {name: lambda *_, said=said, **__: said for name, said in rotations.items()}
        client = SimpleNamespace(
            profile=SimpleNamespace(repository="demo"), rotations=SimpleNamespace(**calls)
        )

        @contextmanager
        def connect(_: str) -> Iterator[Any]:
            yield client

        for module in (commands, rotation_receipt):
            monkeypatch.setattr(module, "connect", connect)
        return CliRunner().invoke(rotate, [*map(str, arguments)], standalone_mode=False)

    return ran


def reason(result: Result) -> str:
    assert isinstance(result.exception, KeydError), result.output
    return result.exception.reason


# --- plans ---------------------------------------------------------------------------------------

PLAN = ("plan", "timestamp", "--replace")
START = ("start", "timestamp", "--replace")


def test_the_lines_of_a_daemon_are_not_what_is_shown(run: Run) -> None:
    lied = answer(plan(), lines=["nothing changes"])
    assert "nothing changes" not in run({"plan": lied}, *PLAN).output
    assert "1. sign timestamp 3" in run({"plan": lied}, *PLAN).output
    # Without --confirm the plan is shown, and not started.
    unread = run({"plan": lied}, *START)
    assert isinstance(unread.exception, click.UsageError)
    assert "1. sign timestamp 3" in unread.output
    assert "nothing changes" not in unread.output


@pytest.mark.parametrize("lie", [{"digest": b"\0" * 32}, {"json": plan("another").raw.decode()}])
def test_a_plan_under_another_digest_is_neither_shown_nor_started(
    run: Run, lie: dict[str, Any]
) -> None:
    lied = answer(plan(), **lie)
    confirmed = ("--confirm", plan().digest)
    for arguments in (PLAN, START, (*START, *confirmed)):
        assert reason(run({"plan": lied}, *arguments)) == "DIGEST_MISMATCH"


def test_findings_are_those_of_the_plan(run: Run) -> None:
    made = plan("sign timestamp 3", refused("DEAD_END", "nobody can go on"))
    hidden = answer(made, findings=[])
    for arguments in (PLAN, START):
        result = run({"plan": hidden}, *arguments)
        assert result.return_value is Exit.FAILED
        assert "refused: DEAD_END: nobody can go on" in result.output


def test_what_waits_at_the_moment_is_told_beside_the_plan(run: Run) -> None:
    """The bytes cannot say it. A daemon makes no refusal of it, and adds nothing else."""
    beside = warned("ROTATION_VERSION_PENDING", f"timestamp 13 waits{ESCAPE}")
    lies = (refused("ROTATION_VERSION_PENDING", "hopeless"), warned("STRANGE", "call a number"))
    told = answer(plan(), findings=findings_out((beside, *lies)))
    for arguments in (PLAN, START):
        result = run({"plan": told}, *arguments)
        assert "warning: ROTATION_VERSION_PENDING: timestamp 13 waits\\x1b" in result.output
        assert "hopeless" not in result.output
        assert "STRANGE" not in result.output
    shown = json.loads(run({"plan": told}, *PLAN, "--json").stdout)["plan"]
    assert [each["reason"] for each in shown["findings"]] == ["ROTATION_VERSION_PENDING"]
    assert shown["digest"] == plan().digest


def test_no_terminal_does_what_a_plan_says(run: Run) -> None:
    made = plan(f"sign {ESCAPE}\ntimestamp 3 … 5", warned("STRANGE", f"{ESCAPE} is strange"))
    for arguments in (PLAN, START):
        shown = run({"plan": answer(made)}, *arguments).output
        assert "sign \\x1b[2K\\x9b\\u202e\\ntimestamp 3 … 5" in shown
        assert "STRANGE: \\x1b" in shown
        assert not set(ESCAPE[:1] + ESCAPE[-2:]) & set(shown)


# --- receipts ------------------------------------------------------------------------------------

LOG = ed25519.Ed25519PrivateKey.generate()
VERIFIER = LogKey("keyd.example.com/log", public_der(LOG)).verifier()
PAYLOAD = root_file(2, SECOND).payload.raw


def receipt(payload: bytes = PAYLOAD, **lies: Any) -> GetReceiptResponse:
    digest, now = hashlib.sha256(PAYLOAD).hexdigest(), TestClock().now()
    true = Reservation("demo", "root", 0, 2, digest, (), ReservationState.RESERVED, 7, now)
    reservation = replace(true, **lies)
    statement = ReservationReceipt("ledger", "r-1", reservation).statement()
    signature = LOG.sign(dsse.pae(PAYLOAD_TYPE, statement))
    envelope = dsse.encode(dsse.Envelope(PAYLOAD_TYPE, statement, "", signature))
    return GetReceiptResponse(
        payload=payload,
        receipt=envelope,
        role="root",
        version=2,
        wanted={"ab": f"dave{ESCAPE}"},
        change=["nothing changes"],
    )


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    path = tmp_path / "1.root.json"
    path.write_bytes(root_bytes(1, FIRST))
    return path


def test_what_is_signed_elsewhere_is_shown_from_its_bytes(
    run: Run, tmp_path: Path, trusted: Path
) -> None:
    arguments = ("receipt", "r-1", "--output", tmp_path / "to-sign")
    result = run({"receipt": receipt()}, *arguments, "--trusted", trusted)
    assert result.exit_code == 0, result.output
    assert f"role root: key added: {fingerprint(4)}" in result.output
    assert f"role root: key removed: {fingerprint(1)}" in result.output
    assert "words  1" in result.output
    assert "WARNING" not in result.output
    assert "nothing changes" not in result.output
    assert "\x1b" not in result.output
    assert (tmp_path / "to-sign" / "payload").read_bytes() == PAYLOAD


def test_without_the_trusted_version_nobody_claims_to_know_the_change(
    run: Run, tmp_path: Path
) -> None:
    arguments = ("receipt", "r-1", "--output", tmp_path / "to-sign")
    shown = run({"receipt": receipt()}, *arguments).output
    assert "WARNING    the trusted version before root 2 is not here" in shown
    assert "NOT KNOWN" in shown
    found = run({"receipt": receipt()}, *arguments, "--json")
    told = json.loads(found.stdout)
    assert told["digest"] == hashlib.sha256(PAYLOAD).hexdigest()
    assert len(told["doubts"]) == 1


@pytest.mark.parametrize(
    "lied",
    [
        receipt(root_file(2, FIRST).payload.raw),
        receipt(version=3),
        receipt(role="targets"),
        receipt(digest="ab" * 32),
    ],
    ids=["payload", "version", "role", "digest"],
)
def test_a_receipt_binds_the_payload_that_came_with_it(
    run: Run, tmp_path: Path, lied: GetReceiptResponse
) -> None:
    target = tmp_path / "to-sign"
    assert reason(run({"receipt": lied}, "receipt", "r-1", "--output", target)) == "RECEIPT_INVALID"
    other = run({"receipt": receipt()}, "receipt", "r-2", "--output", target)
    assert reason(other) == "RECEIPT_INVALID"
    assert not target.exists()


def test_a_kept_verifier_key_tells_whose_receipt_it_is(run: Run, tmp_path: Path) -> None:
    arguments = ("receipt", "r-1", "--output", tmp_path / "to-sign")
    assert "was not checked" in run({"receipt": receipt()}, *arguments).output
    checked = run({"receipt": receipt()}, *arguments, "--verifier-key", VERIFIER)
    assert (checked.exit_code, "was not checked" in checked.output) == (0, False)
    other = LogKey("keyd.example.com/log", public_der(ed25519.Ed25519PrivateKey.generate()))
    refused_ = run({"receipt": receipt()}, *arguments, "--verifier-key", other.verifier())
    assert reason(refused_) == "RECEIPT_INVALID"
