"""An officer at a desk without network: statement files, and what `keyd approve` does with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from keyd.cli.approve import approve
from keyd.cli.case import Case, encode
from keyd.cli.officer_keys import FileSigner, write_key_file
from keyd.domain import canonical, operations
from keyd.domain.approval import Basis
from keyd.domain.officers import Officer, OfficerSet
from keyd.domain.operations import Operation, SignMetadata
from keyd.domain.quorum import QuorumRule, rules_digest
from keyd.errors import KeydError
from tests.officers import person
from tests.unit.domain.payloads import document

RULES = (QuorumRule("base", 2),)
NAME = "p-abc"


def root(version: int, **more: str) -> bytes:
    return canonical.encode({**document("root"), "version": version, **more})


class Desk:
    """An officer's directory, without any network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer: FileSigner = write_key_file(folder / "alice.key")
        self.alice = Officer("alice", keys=(self.signer.public,))
        self.officers = OfficerSet((self.alice, person("bob", "qa").officer))

    def case(
        self,
        operation: Operation,
        payload: bytes = b"",
        trusted: bytes = b"",
        revision: str = "policy",
    ) -> Case:
        basis = Basis(
            daemon="ledger",
            proposal=NAME,
            operation=operation.kind,
            operation_sha256=operations.digest(operation),
            payload_sha256=hashlib.sha256(payload).hexdigest() if payload else "",
            rules_sha256=rules_digest(RULES),
            officers_sha256=self.officers.digest,
            policy_revision=revision,
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


def reason(result: Result) -> str:
    assert isinstance(result.exception, KeydError), result.output
    return result.exception.reason
