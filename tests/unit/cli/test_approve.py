"""What `keyd approve` computes by itself from a statement file, and what it will not sign."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.domain import approval
from keyd.domain.officers import Officer, OfficerKeyState, OfficerState
from keyd.domain.operations import ChangeOfficer, SignMetadata, SucceedOfficer
from tests.officers import person
from tests.unit.cli.desk import Desk, reason, root


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


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


def test_a_root_with_pem_keys_may_have_the_members_that_its_rules_allow(desk: Desk) -> None:
    """PEM keys, the default, hold raw line feeds."""
    payloads = [root(version, owner="ops") for version in (1, 2)]
    assert b"PUBLIC KEY-----\n" in payloads[1]
    digest = hashlib.sha256(payloads[1]).hexdigest()
    case = desk.case(SignMetadata("demo", "root", 0, 2, digest), payloads[1], payloads[0])
    result = desk.approve(case)
    assert result.exit_code == 0, result.output


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


def succession(bob: Officer, dora: Officer) -> SucceedOfficer:
    leaving = ChangeOfficer.to(replace(bob, state=OfficerState.REVOKED), bob)
    return SucceedOfficer(leaving.officer, leaving.before, ChangeOfficer.to(dora, None).officer)


def test_a_succession_is_shown_with_both_persons(desk: Desk) -> None:
    """Names by which a person calls decide what they cannot approve: none may pass unseen."""
    bob, dora = desk.officers.officers[1], person("dora", principals=["unix:release"]).officer
    case = desk.case(succession(bob, dora))
    result = desk.approve(case)
    assert result.exit_code == 0, result.output
    for line in (
        "officer dora against nothing:",
        "+ calls as: unix:release",
        f"+ key {dora.keys[0].fingerprint}",
        "officer bob against the officer ",
        "- state: ENROLLED",
        "+ state: REVOKED",
    ):
        assert line in result.output
    assert f"key {bob.keys[0].fingerprint}" not in result.output, "it stays as it is"
    assert reason(desk.approve(replace(case, officers=None))) == "DIFFERENCE_UNKNOWN"


def test_a_succession_is_of_the_listed_officer(desk: Desk) -> None:
    bob, dora = desk.officers.officers[1], person("dora").officer
    another = replace(bob, groups=frozenset({"ops"}))
    assert reason(desk.approve(desk.case(succession(another, dora)))) == "DIGEST_MISMATCH"
    taken = replace(dora, name="alice")
    assert reason(desk.approve(desk.case(succession(bob, taken)))) == "DIGEST_MISMATCH"
