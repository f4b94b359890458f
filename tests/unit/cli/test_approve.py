"""What `keyd approve` computes by itself from a statement file, and what it will not sign."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keyd.cli.approve import approve
from keyd.cli.case import Case, encode
from keyd.cli.officer_keys import FileSigner, write_key_file
from keyd.domain import approval, canonical, operations
from keyd.domain.approval import Basis
from keyd.domain.officers import Officer, OfficerKeyState, OfficerSet
from keyd.domain.operations import ChangeOfficer, Operation, SignMetadata
from keyd.domain.quorum import QuorumRule, rules_digest
from keyd.errors import KeydError
from tests.officers import person
from tests.unit.domain.payloads import document

RULES = (QuorumRule("base", 2),)
NAME = "p-abc"


def root(version: int) -> bytes:
    return canonical.encode({**document("root"), "version": version})


class Desk:
    """An officer's directory, without any network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer: FileSigner = write_key_file(folder / "alice.key")
        self.alice = Officer("alice", keys=(self.signer.public,))
        self.officers = OfficerSet((self.alice, person("bob", "qa").officer))

    def case(self, operation: Operation, payload: bytes = b"", trusted: bytes = b"") -> Case:
        basis = Basis(
            daemon="ledger",
            proposal=NAME,
            operation=operation.kind,
            operation_sha256=operations.digest(operation),
            payload_sha256=hashlib.sha256(payload).hexdigest() if payload else "",
            rules_sha256=rules_digest(RULES),
            officers_sha256=self.officers.digest,
            policy_revision="policy",
            expires="2030-01-01T00:00:00Z",
        )
        raw = operations.encode(operation)
        return Case(basis, raw, payload, trusted, RULES, officers=self.officers)

    def signing(self, version: int, trusted: int | None) -> Case:
        payload = root(version)
        digest = hashlib.sha256(payload).hexdigest()
        before = root(trusted) if trusted is not None else b""
        return self.case(SignMetadata("demo", "root", 0, version, digest), payload, before)

    def approve(
        self,
        case: Case,
        *more: str,
        touch: Callable[[dict[str, Any]], None] = lambda _: None,
        officer: str = "alice",
    ) -> Result:
        file = self.folder / "case.json"
        content = json.loads(encode(case, officer))
        touch(content)
        file.write_text(json.dumps(content))
        key = f"file:{self.folder / 'alice.key'}"
        options = ["--statement", str(file), "--key", key, "--out", str(self.out)]
        return CliRunner().invoke(approve, [*options, "--confirm", NAME, *more])

    @property
    def out(self) -> Path:
        return self.folder / "alice.dsse"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def reason(result: Result) -> str:
    assert isinstance(result.exception, KeydError), result.output
    return result.exception.reason


def test_an_envelope_is_made_of_what_was_shown(desk: Desk) -> None:
    result = desk.approve(desk.signing(2, trusted=1))
    assert result.exit_code == 0, result.output
    assert "officers   alice, bob" in result.output
    assert "WARNING" not in result.output
    assert "development only" in result.output
    statement, envelope = approval.read(desk.out.read_bytes())
    approval.check_signature(statement, envelope, desk.signer.public)


@pytest.mark.parametrize("omitted", [True, False])
def test_without_the_trusted_version_nothing_is_approved(desk: Desk, omitted: bool) -> None:
    case = replace(desk.signing(2, trusted=None), omitted=omitted)
    result = desk.approve(case)
    assert reason(result) == "DIFFERENCE_UNKNOWN"
    assert "WARNING" in result.output
    assert "NOT KNOWN" in result.output
    assert not desk.out.exists()


def test_own_copies_and_plain_words_help_where_the_trusted_version_is_missing(desk: Desk) -> None:
    case = desk.signing(2, trusted=None)
    own = desk.folder / "1.root.json"
    own.write_bytes(root(1))
    with_own = desk.approve(case, "--trusted", str(own))
    assert with_own.exit_code == 0, with_own.output
    assert "WARNING" not in with_own.output
    desk.out.unlink()
    blind = desk.approve(case, "--without-difference")
    assert blind.exit_code == 0
    assert "WARNING" in blind.output
    assert desk.out.exists()


def test_saying_no_needs_no_difference(desk: Desk) -> None:
    assert desk.approve(desk.signing(2, trusted=None), "--reject").exit_code == 0


def test_a_first_version_has_nothing_before_it(desk: Desk) -> None:
    assert desk.approve(desk.signing(1, trusted=None)).exit_code == 0


def test_a_root_is_compared_with_the_one_that_it_follows(desk: Desk) -> None:
    """A daemon that compares with an older root would hide, or invent, what is new."""
    result = desk.approve(desk.signing(4, trusted=2))
    assert reason(result) == "DIFFERENCE_UNKNOWN"
    assert "root 4 is compared with root 2" in result.output


def one_more(content: dict[str, Any]) -> None:
    content["officers"].append({**content["officers"][1], "name": "mallory"})


def nobody(content: dict[str, Any]) -> None:
    content["officers"] = []


def other_digest(content: dict[str, Any]) -> None:
    content["basis"]["officers_sha256"] = "00" * 32


@pytest.mark.parametrize("touch", [one_more, nobody, other_digest])
def test_officers_are_hashed_here(desk: Desk, touch: Callable[[dict[str, Any]], None]) -> None:
    result = desk.approve(desk.signing(2, trusted=1), touch=touch)
    assert reason(result) == "DIGEST_MISMATCH"
    assert not desk.out.exists()


def test_unlisted_officers_are_said_to_be_the_daemons_word(desk: Desk) -> None:
    def unlisted(content: dict[str, Any]) -> None:
        content["officers"] = None

    result = desk.approve(desk.signing(2, trusted=1), touch=unlisted)
    assert result.exit_code == 0
    assert "is the daemon's word" in result.output


def test_a_key_that_is_not_the_officers_signs_nothing(desk: Desk) -> None:
    result = desk.approve(desk.signing(2, trusted=1), officer="bob")
    assert reason(result) == "OFFICER_KEY_UNKNOWN"
    assert reason(desk.approve(desk.signing(2, trusted=1), officer="nobody")) == "OFFICER_UNKNOWN"
    assert not desk.out.exists()


def test_a_change_of_an_officer_is_shown_against_the_officer(desk: Desk) -> None:
    bob = desk.officers.officers[1]
    new = person("bob").key
    retired = replace(bob.keys[0], state=OfficerKeyState.REPLACED)
    changed = replace(bob, groups=frozenset(), keys=(retired, new))
    case = desk.case(ChangeOfficer.to(changed, bob))
    shown = desk.approve(case).output
    for line in ("- groups: qa", "+ groups: none", f"+ key {new.fingerprint}", "REPLACED"):
        assert line in shown
    unlisted = replace(case, officers=None)
    assert reason(desk.approve(unlisted)) == "DIFFERENCE_UNKNOWN"
    other = desk.case(ChangeOfficer.to(changed, replace(bob, groups=frozenset({"ops"}))))
    assert reason(desk.approve(other)) == "DIGEST_MISMATCH"
