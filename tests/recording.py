"""A client that remembers everything it was given, for comparison with what was recorded."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from keyd.domain import canonical
from keyd_client import Client, echo
from keyd_client.messages import MetadataSignature
from tests.authors import Signed, Writer


@dataclass(frozen=True)
class Receipt:
    """A signature that left the daemon, verified by its receiver."""

    repository: str
    role: str
    version: int
    key: str
    payload: bytes
    signature: bytes


class Recorder:
    """Signs through the SDK and keeps a receipt of each answer. For one thread."""

    def __init__(self, client: Client, repository: str) -> None:
        self.client = client
        self.repository = repository
        self.receipts: list[Receipt] = []
        self._keys: dict[str, Key] = {}
        self.writer = Writer(lambda: datetime.now(UTC), self._tuf_key)

    def sign(
        self, key: str, role: str, signed: Signed | bytes, change: bytes = b"", **more: Any
    ) -> MetadataSignature:
        """Have one key sign; the answer is verified and kept. Raises: KeydClientError."""
        payload = signed if isinstance(signed, bytes) else canonical.encode(signed)
        answer = self.client.sign_metadata(
            key,
            payload,
            repository=self.repository,
            role=role,
            confirmed_change=change,
            **more,
        )
        echo.verified(self.public_key(key), answer, payload)
        self.keep(role, int(answer.version), key, payload, answer.signature)
        return answer

    def keep(self, role: str, version: int, key: str, payload: bytes, signature: bytes) -> None:
        """Keep a receipt of a signature that came by another way."""
        self.receipts.append(Receipt(self.repository, role, version, key, payload, signature))

    def change_digest(self, signed: Signed) -> bytes:
        """What confirms a root change."""
        checked = self.client.check_metadata(
            canonical.encode(signed), repository=self.repository, role="root"
        )
        return checked.change_sha256

    def public_key(self, name: str) -> Key:
        if name not in self._keys:
            self._keys[name] = echo.public_key(self.client.keys.get(name))
        return self._keys[name]

    def _tuf_key(self, name: str) -> tuple[str, Signed]:
        key = self.public_key(name)
        return key.keyid, key.to_dict()


def entries_of(client: Client) -> list[dict[str, Any]]:
    """Every entry of the audit log."""
    return [json.loads(entry.data) for entry in client.audit.entries()]


def check_receipts(client: Client, receipts: Sequence[Receipt]) -> None:
    """Every signature that was received is what GetSignature tells, over the same payload."""
    recorded = {}
    for receipt in receipts:
        place = receipt.repository, receipt.role, receipt.version
        if place not in recorded:
            found = client.get_signature(receipt.role, receipt.version, receipt.repository)
            signatures = {(one.key, one.signature) for one in found.signatures}
            recorded[place] = found.payload, signatures
        payload, signatures = recorded[place]
        assert payload == receipt.payload, f"{place} has another payload than was signed"
        assert (receipt.key, receipt.signature) in signatures, f"{place}: not recorded"


def check_entries(entries: Iterable[dict[str, Any]], receipts: Iterable[Receipt] = ()) -> None:
    """The log knows every receipt, one payload per version, and an end of every intent."""
    completed: set[tuple[str, str, int, str, str]] = set()
    payloads: dict[tuple[str, str, int, int], set[str]] = defaultdict(set)
    open_intents: set[int] = set()
    for entry in entries:
        if entry["event"] in ("signature_intended", "opaque_intended"):
            open_intents.add(entry["index"])
        open_intents.discard(entry.get("intent", -1))
        if entry["event"] not in ("signature_intended", "signature_completed"):
            continue
        place = entry["repository"], entry["role"], entry["epoch"], entry["version"]
        payloads[place].add(entry["payload_sha256"])
        if entry["event"] == "signature_completed" and not entry["discarded"]:
            where = entry["repository"], entry["role"], entry["version"]
            completed.add((*where, entry["key"], entry["signature"]))
    doubled = {place: found for place, found in payloads.items() if len(found) > 1}
    assert not doubled, f"versions with two payloads: {doubled}"
    assert not open_intents, f"intents without an end: {sorted(open_intents)}"
    for receipt in receipts:
        where = receipt.repository, receipt.role, receipt.version
        assert (*where, receipt.key, receipt.signature.hex()) in completed, receipt


def check_disk(ledger: Path, anchor: Path) -> int:
    """Read the ledger without keyd: returns the log's size if it is whole.

    Every leaf is hashed again (RFC 6962 2.1), the anchor's root is found at its size, and no
    announced token call is without an end.
    """
    with closing(sqlite3.connect(f"file:{ledger}/ledger.db?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT position, data FROM leaves ORDER BY position").fetchall()
        waiting = database.execute("SELECT * FROM intents WHERE state = 'OPEN'").fetchall()
    assert [position for position, _ in rows] == list(range(len(rows)))
    assert not waiting
    lines = (anchor / "anchor.jsonl").read_text().splitlines()
    seen = [line for line in map(json.loads, lines) if "size" in line][-1]
    hashes = [hashlib.sha256(b"\0" + data).digest() for _, data in rows]
    assert _root(hashes[: seen["size"]]).hex() == seen["root"]
    return len(rows)


def _root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(hashes[:half]) + _root(hashes[half:])).digest()
