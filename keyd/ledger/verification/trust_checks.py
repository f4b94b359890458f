"""Whether versions were judged by keys that recorded metadata lists, not by what a row claims."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from keyd.domain import public_keys
from keyd.domain.delegations import key_set, key_table
from keyd.domain.payload import Payload
from keyd.domain.trust import KeySet
from keyd.ledger.codec import key_sets_of
from keyd.ledger.verification.entries import Fields, intended_root

_KEPT_PAYLOADS = 64


@dataclass(frozen=True)
class Judged:
    """A version: its repository and role, its bytes, and the key lists it is said to need."""

    repository: str
    role: str
    digest: str
    payload: bytes
    required: str


class RecordedTrust:
    """The payloads of delegators, and the key lists in them.

    `repositories` are the entries that made the repositories: an administrator said in them who
    may sign the first root.
    """

    def __init__(self, connection: sqlite3.Connection, repositories: Mapping[str, Fields]) -> None:
        self._connection = connection
        self._repositories = repositories
        self._load = lru_cache(_KEPT_PAYLOADS)(self._load_payload)
        self._known: dict[tuple[str, str, str], str] = {}

    def objection(self, judged: Judged) -> str:
        """What is wrong with the key lists that a version was judged by, "" if nothing is."""
        if judged.role == "root":
            return self._objection(judged)
        place = judged.repository, judged.role, judged.required
        if place not in self._known:
            self._known[place] = self._objection(judged)
        return self._known[place]

    def verify(self, judged: Judged, fingerprint: str, signature: bytes) -> bool:
        """Whether a signature by a key that is not registered here is valid, and its key listed."""
        for source in self._sources(judged):
            for keyid, found in key_table(source).fingerprints.items():
                if found == fingerprint:
                    pair = [(keyid, signature.hex())]
                    valid = public_keys.verify_metadata_signatures(
                        judged.payload, pair, {keyid: _key_objects(source)[keyid]}
                    )
                    return fingerprint in valid
        return False

    def _objection(self, judged: Judged) -> str:
        try:
            sets = key_sets_of(judged.required)
        except (ValueError, TypeError, AttributeError):
            return "its key lists cannot be read"
        if not sets:
            return "nobody's key list stands behind it"
        wrong = [s.delegator for s in sets if not self._is_recorded(s, judged)]
        return f"{wrong[0]} does not list the keys it was judged by" if wrong else ""

    def _is_recorded(self, claimed: KeySet, judged: Judged) -> bool:
        announced = self._repositories.get(judged.repository, {})
        if claimed.delegator == "bootstrap":
            return claimed == intended_root(announced)
        if claimed.delegator == "registration":
            if announced.get("first_root_sha256") != judged.digest:
                return False
            source = _own(judged)
        else:
            source = self._source(claimed, judged)
        actual = None if source is None else key_set(source, judged.role, claimed.delegator)
        return actual is not None and (
            (actual.threshold, dict(actual.fingerprints))
            == (claimed.threshold, dict(claimed.fingerprints))
        )

    def _sources(self, judged: Judged) -> Iterator[Payload]:
        own = _own(judged) if judged.role == "root" else None
        found = [own, *(self._source(s, judged) for s in key_sets_of(judged.required))]
        yield from (source for source in found if source is not None)

    def _source(self, claimed: KeySet, judged: Judged) -> Payload | None:
        """The payload that a key list comes from: the delegator's, or a root's own."""
        name, _, version = claimed.delegator.rpartition(":")
        if name == judged.role == "root":
            own = _own(judged)
            if own is not None and str(own.signed.get("version")) == version:
                return own
        return self._load(judged.repository, name, int(version)) if version.isdecimal() else None

    def _load_payload(self, repository: str, name: str, version: int) -> Payload | None:
        row = self._connection.execute(
            "SELECT p.digest, p.data FROM reservations AS r "
            "JOIN payloads AS p ON p.digest = r.digest "
            "WHERE r.repository = ? AND r.role = ? AND r.version = ? AND r.state <> 'VOIDED' "
            "ORDER BY r.epoch DESC",
            (repository, name, version),
        ).fetchone()
        return None if row is None else _intact(*row)


def _own(judged: Judged) -> Payload | None:
    return _intact(judged.digest, judged.payload)


def _intact(digest: str, raw: bytes) -> Payload | None:
    """A payload with the digest it was recorded under: it parsed strictly then."""
    if hashlib.sha256(raw).hexdigest() != digest:
        return None
    return Payload(raw=raw, signed=json.loads(raw, strict=False))


def _key_objects(payload: Payload) -> Mapping[str, Mapping[str, Any]]:
    signed = payload.signed
    found: Mapping[str, Mapping[str, Any]] = (
        signed["keys"] if "keys" in signed else signed["delegations"]["keys"]
    )
    return found
