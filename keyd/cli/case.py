"""What an officer decides on, judged from the bytes: digests, difference, rules.

Everything here is computed from operation, payloads and rules. What a daemon says of them is only
compared, and a difference ends the matter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC
from pathlib import Path
from typing import Any

from keyd.cli import case_officers
from keyd.cli.case_attached import own_plan, plan_compared, policy_compared
from keyd.cli.case_metadata import metadata_compared
from keyd.cli.case_officers import officer_compared, succession_compared
from keyd.cli.compared import Compared, digest_lines, mismatch, same
from keyd.cli.metadata_files import read_document, read_file
from keyd.cli.output import plain
from keyd.domain import operations
from keyd.domain.approval import Basis, expiry_text
from keyd.domain.digest_words import digest_words
from keyd.domain.officers import OfficerSet
from keyd.domain.operations import (
    AcceptPolicy,
    ChangeOfficer,
    Operation,
    SignMetadata,
    StartRotation,
    SucceedOfficer,
)
from keyd.domain.quorum import QuorumRule, rules_digest
from keyd.errors import InvalidRequest
from keyd_client.messages import GetProposalResponse

_FORM = "keyd-statement-file-v1"
_FILE_MAX = 16_000_000


@dataclass(frozen=True)
class Case:
    """One proposal as it lies before an officer.

    `payload` are the bytes whose digest the operation names, b"" where there are none or they were
    not kept. `trusted` b"": nothing to compare with, `omitted` if the daemon had something that was
    too large to send. `officers` None: nobody listed them.
    """

    basis: Basis
    operation: bytes
    payload: bytes
    trusted: bytes
    rules: tuple[QuorumRule, ...]
    omitted: bool = False
    officers: OfficerSet | None = None


@dataclass(frozen=True)
class Judged:
    """What the bytes say. `digest` is what officers compare by voice, 32 bytes: the payload's, or
    the operation's where there is none."""

    case: Case
    operation: Operation
    digest: bytes
    compared: Compared

    @property
    def changes(self) -> tuple[str, ...]:
        """What it does, line by line."""
        return self.compared.changes

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why `changes` may not be all of them."""
        return self.compared.doubts

    def lines(self) -> tuple[str, ...]:
        """For the person who decides; printable ASCII."""
        basis = self.case.basis
        return (
            f"proposal   {plain(basis.proposal)}",
            f"daemon     {plain(basis.daemon)}",
            f"operation  {plain(self.operation.words())}",
            *digest_lines(self.digest),
            *(f"rule       {plain(rule.words())} ({plain(rule.name)})" for rule in self.case.rules),
            f"officers   {self._people()}",
            f"expires    {plain(basis.expires)}",
            *self.compared.lines(),
        )

    def _people(self) -> str:
        """Who may decide, if their list was there to be hashed."""
        found = self.case.officers
        if found is None:
            return f"not listed; {plain(self.case.basis.officers_sha256)} is the daemon's word"
        names = ", ".join(plain(each.name) for each in found.able)
        return f"{names} (SHA-256 {found.digest[:16]}, computed here)"

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "operation": json.loads(self.case.operation),
            "words": self.operation.words(),
            "digest": self.digest.hex(),
            "digest_words": list(digest_words(self.digest)),
            "changes": list(self.changes),
            "doubts": list(self.doubts),
            "basis": asdict(self.case.basis),
        }


def case_of(answer: GetProposalResponse, officers: OfficerSet | None) -> Case:
    """A case as a daemon tells it, and whom it calls officers.

    Raises: InvalidRequest (DIGEST_MISMATCH) when the daemon's digests are not those of the bytes.
    """
    found = answer.proposal
    rules = tuple(
        QuorumRule(each.rule.name, each.rule.threshold, dict(each.rule.groups))
        for each in found.rules
    )
    basis = Basis(
        daemon=found.daemon,
        proposal=found.name,
        operation=operations.decode(found.operation).kind,
        operation_sha256=found.operation_sha256.hex(),
        payload_sha256=found.payload_sha256.hex(),
        rules_sha256=rules_digest(rules),
        officers_sha256=found.officers_sha256.hex(),
        policy_revision=found.policy_revision,
        expires=expiry_text(found.expire_time.ToDatetime(UTC)),
    )
    return Case(
        basis,
        found.operation,
        answer.payload,
        answer.trusted,
        rules,
        answer.trusted_omitted,
        officers,
    )


def with_own_files(case: Case, payload: Path | None, trusted: Path | None) -> Case:
    """The case with the officer's own copies of its files, which must be the daemon's.

    Raises: InvalidRequest (DIGEST_MISMATCH), click.UsageError.
    """
    operation = operations.decode(case.operation)
    if payload is not None:
        own = own_file(operation, payload)
        if case.payload and own != case.payload:
            raise mismatch(f"{payload} is not the payload that the proposal holds")
        case = replace(case, payload=own)
    if trusted is not None:
        own = own_file(operation, trusted)
        if case.trusted and own != case.trusted:
            raise mismatch(f"{trusted} is not the version that the daemon trusts")
        case = replace(case, trusted=own)
    return case


def own_file(operation: Operation, path: Path) -> bytes:
    """A file as the operation takes it: a policy byte by byte, metadata in canonical form."""
    match operation:
        case AcceptPolicy():
            return read_file(path)
        case StartRotation():
            return own_plan(path)
        case _:
            return read_document(path).payload


def judge(case: Case) -> Judged:
    """Compute all digests and the difference. Raises: InvalidRequest."""
    operation = operations.decode(case.operation)
    basis = case.basis
    digest = hashlib.sha256(case.operation).digest()
    same(operation.kind, basis.operation, "kind of operation")
    same(digest.hex(), basis.operation_sha256, "operation")
    same(rules_digest(case.rules), basis.rules_sha256, "rules")
    if case.officers is not None:
        same(case.officers.digest, basis.officers_sha256, "list of officers")
    compared = _compared(case, operation)
    return Judged(case, operation, compared.digest or digest, compared)


def _compared(case: Case, operation: Operation) -> Compared:
    stated = case.basis.payload_sha256
    match operation:
        case SignMetadata():
            return _metadata(case, operation)
        case StartRotation():
            return plan_compared(operation, case.payload, stated)
        case AcceptPolicy():
            revision = case.basis.policy_revision
            return policy_compared(
                operation, case.payload, stated, trusted=case.trusted, revision=revision
            )
        case ChangeOfficer():
            same("", stated, "payload")
            return officer_compared(operation, case.officers)
        case SucceedOfficer():
            same("", stated, "payload")
            return succession_compared(operation, case.officers)
        case _:
            same("", stated, "payload")
            return Compared()


def _metadata(case: Case, operation: SignMetadata) -> Compared:
    if not case.payload:
        raise InvalidRequest(
            "PAYLOAD_MISSING", "the payload is not in the statement: give it by --payload FILE"
        )
    compared = metadata_compared(
        operation.role,
        operation.version,
        case.payload,
        case.trusted,
        why="the daemon left it out, it is too large" if case.omitted else "the daemon has none",
    )
    same(compared.digest.hex(), case.basis.payload_sha256, "payload")
    same(compared.digest.hex(), operation.payload_sha256, "payload of the operation")
    return compared


def encode(case: Case, officer: str) -> bytes:
    """A case as the file that travels to an officer who is offline."""
    document = {
        "form": _FORM,
        "officer": officer,
        "basis": asdict(case.basis),
        "operation": _text(case.operation),
        "payload": _text(case.payload),
        "trusted": _text(case.trusted),
        "rules": [
            {"name": rule.name, "threshold": rule.threshold, "groups": dict(rule.groups)}
            for rule in case.rules
        ],
        "trusted_omitted": case.omitted,
        "officers": case_officers.to_json(case.officers),
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def decode(path: Path) -> tuple[Case, str]:
    """Case and officer's name of such a file. Raises: InvalidRequest (STATEMENT_UNREADABLE)."""
    content = read_file(path)
    try:
        if len(content) > _FILE_MAX:
            raise ValueError
        document = json.loads(content)
        if document["form"] != _FORM:
            raise ValueError
        basis = Basis(**{each.name: str(document["basis"][each.name]) for each in fields(Basis)})
        rules = tuple(
            QuorumRule(str(rule["name"]), int(rule["threshold"]), _groups(rule["groups"]))
            for rule in document["rules"]
        )
        case = Case(
            basis,
            _bytes(document["operation"]),
            _bytes(document["payload"]),
            _bytes(document["trusted"]),
            rules,
            bool(document["trusted_omitted"]),
            case_officers.of_json(document["officers"]),
        )
        return case, str(document["officer"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            "STATEMENT_UNREADABLE", f"{path} is no file of keyd proposal statement"
        ) from error


def _groups(value: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in value.items()}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
