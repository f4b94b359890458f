"""Whether versions were judged by keys that recorded metadata lists, not by what a row claims."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Any

from keyd.domain import public_keys
from keyd.domain.delegations import key_set, key_table
from keyd.domain.payload import Payload
from keyd.domain.trust import TOP_LEVEL, KeySet
from keyd.ledger.codec import key_sets_of
from keyd.ledger.log import StoredLog
from keyd.ledger.verification.entries import Fields, intended_root
from keyd.ledger.view import SqliteView

_KEPT_PAYLOADS = 64
Place = tuple[str, str, int, int]
_ACCEPTED = """
SELECT r.epoch, r.version, max(s.leaf)
FROM reservations AS r JOIN signatures AS s ON s.reservation = r.id
WHERE r.repository = ? AND r.role = ? AND r.state <> 'VOIDED' AND r.state = 'ACCEPTED'
GROUP BY r.epoch, r.version
"""


@dataclass(frozen=True)
class Judged:
    """A version: its repository and role, its bytes, and the key lists it is said to need.

    `leaf` is the entry that bound it: what was trusted before it had the last word.
    """

    repository: str
    role: str
    digest: str
    payload: bytes
    required: str
    leaf: int


class RecordedTrust:
    """The payloads of delegators, and the key lists in them.

    `repositories` are the entries that made the repositories: an administrator said in them who
    may sign the first root. `imported` are the entries of imports, by repository, role, epoch and
    version.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        repositories: Mapping[str, Fields],
        imported: Mapping[Place, Fields],
    ) -> None:
        self._connection = connection
        self._view = SqliteView(connection, StoredLog(connection))
        self._repositories = repositories
        self._imported = imported
        self._load = lru_cache(_KEPT_PAYLOADS)(self._load_payload)
        self._accepted = cache(self._read_accepted)
        self._delegators = cache(self._view.delegators_of)
        self._known: dict[tuple[str, str, str, tuple[str, ...]], str] = {}

    def objection(self, judged: Judged) -> str:
        """What is wrong with the key lists that a version was judged by, "" if nothing is."""
        if judged.role == "root":
            return self._objection(judged, ())
        newest = tuple(self._trusted(judged))
        place = judged.repository, judged.role, judged.required, newest
        if place not in self._known:
            self._known[place] = self._objection(judged, newest)
        return self._known[place]

    def verify(self, judged: Judged, fingerprint: str, signature: bytes) -> bool:
        """Whether a signature by a key that is not registered here is valid, and its key listed."""
        verdicts = (
            signed_by(source, fingerprint, judged.payload, signature)
            for source in self._sources(judged)
        )
        return next((verdict for verdict in verdicts if verdict is not None), False)

    def _objection(self, judged: Judged, newest: Sequence[str]) -> str:
        try:
            sets = key_sets_of(judged.required)
        except (ValueError, TypeError, AttributeError):
            return "its key lists cannot be read"
        if not sets:
            return "nobody's key list stands behind it"
        wrong = [s.delegator for s in sets if not self._is_recorded(s, judged)]
        if wrong:
            return f"{wrong[0]} does not list the keys it was judged by"
        named = [s.delegator for s in sets]
        if judged.role == "root":
            return "" if self._follows(judged, named) else "a key list that it needs is missing"
        return self._left_out(judged, named, newest)

    def _follows(self, judged: Judged, named: Sequence[str]) -> bool:
        """Whether a root was judged by its own list and by that of the root before it."""
        own = _own(judged)
        if own is None or key_set(own, "root", "") is None:
            return True
        version = int(own.signed["version"])
        others = [name for name in named if name != f"root:{version}"]
        if others == ["bootstrap"]:
            older = [v for _, v in self._accepted(judged.repository, "root") if v < version]
            return len(named) == 2 and not older
        return len(named) == 2 and others in (["registration"], [f"root:{version - 1}"])

    def _left_out(self, judged: Judged, named: Sequence[str], newest: Sequence[str]) -> str:
        """What is wrong with the choice of delegators: each had its word, by its newest version."""
        said = {
            name.rpartition(":")[0]: int(name.rpartition(":")[2]) for name in named if ":" in name
        }
        if len(said) != len(named) or (judged.role in TOP_LEVEL and set(said) != {"root"}):
            return "it was judged by other key lists than those of its delegators"
        for each in newest:
            name, _, version = each.rpartition(":")
            if name in said and said[name] < int(version):
                return f"it was judged by {name}:{said[name]}, and {each} was trusted by then"
            source = self._load(judged.repository, name, int(version))
            if name not in said and source is not None and key_set(source, judged.role, each):
                return f"{each} lists keys for it, which it was not judged by"
        return ""

    def _trusted(self, judged: Judged) -> Iterator[str]:
        """The delegators known by now, as far as they were accepted when the version was bound."""
        top = judged.role in TOP_LEVEL
        names = ("root",) if top else self._delegators(judged.repository, judged.role)
        for name in names:
            newest = self._newest(judged.repository, name, judged.leaf)
            if newest is not None and (top or self._is_attached(judged, name)):
                yield f"{name}:{newest}"

    def _is_attached(self, judged: Judged, name: str) -> bool:
        """Whether a delegator was itself reached from targets then: no client asks any other."""
        seen, waiting = {name}, [name]
        while waiting:
            role = waiting.pop()
            if role == "targets":
                return True
            for above in set(self._delegators(judged.repository, role)) - seen:
                newest = self._newest(judged.repository, above, judged.leaf)
                source = None if newest is None else self._load(judged.repository, above, newest)
                if source is not None and key_set(source, role, ""):
                    seen.add(above)
                    waiting.append(above)
        return False

    def _newest(self, repository: str, role: str, leaf: int) -> int | None:
        """The newest version of a role that was certainly accepted before the entry `leaf`."""
        accepted = self._accepted(repository, role)
        before = bisect_left(accepted, leaf, key=itemgetter(0))
        return accepted[before - 1][1] if before else None

    def _read_accepted(self, repository: str, role: str) -> Sequence[tuple[int, int]]:
        """Entries by which a version was accepted at the latest, and the highest version until
        then; nothing for a role with several epochs, where a number does not tell which version.
        """
        rows = self._connection.execute(_ACCEPTED, (repository, role)).fetchall()
        if len({epoch for epoch, _, _ in rows}) > 1:
            return ()
        found = []
        for epoch, version, leaf in rows:
            imported = self._imported.get((repository, role, epoch, version), {})
            found.append((max(leaf, int(imported.get("index", 0))), version))
        found.sort()
        highest = accumulate((version for _, version in found), max)
        return [(leaf, version) for (leaf, _), version in zip(found, highest, strict=True)]

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


def signed_by(source: Payload, fingerprint: str, raw: bytes, signature: bytes) -> bool | None:
    """Whether the key, as metadata that lists it spells it out, signed `raw`; None: not listed."""
    for keyid, found in key_table(source).fingerprints.items():
        if found == fingerprint:
            key_objects = {keyid: _key_objects(source)[keyid]}
            pair = [(keyid, signature.hex())]
            return found in public_keys.verify_metadata_signatures(raw, pair, key_objects)
    return None


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
