"""The second pass: every record against the entry that announced it and its own digests."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from keyd.domain import public_keys
from keyd.domain.audit import Event
from keyd.domain.trust import KeySet
from keyd.errors import KeydError
from keyd.ledger import codec
from keyd.ledger.codec import decode
from keyd.ledger.verification.entries import Fields, differing, parse
from keyd.ledger.verification.log_pass import LogFacts, Owed
from keyd.ledger.verification.report import Progress, Report
from keyd.ledger.verification.trust_checks import Judged, RecordedTrust

_RESERVATIONS = """
SELECT r.id, r.repository, r.role, r.epoch, r.version, r.digest, r.required, r.state, r.leaf,
    r.created_at, l.data, p.data
FROM reservations AS r
LEFT JOIN leaves AS l ON l.position = r.leaf
LEFT JOIN payloads AS p ON p.digest = r.digest
ORDER BY r.id
"""
_SIGNATURES = """
SELECT s.fingerprint, s.key, s.signature, s.leaf, s.made_at, l.data, k.name, k.scheme, k.public_der
FROM signatures AS s
LEFT JOIN leaves AS l ON l.position = s.leaf
LEFT JOIN keys AS k ON k.fingerprint = s.fingerprint
WHERE s.reservation = ? ORDER BY s.leaf
"""
_PROGRESS_EVERY = 5_000
# Entries that bind a version to its payload.
_BINDING = (Event.SIGNATURE_INTENDED, Event.METADATA_IMPORTED, Event.VERSION_RESERVED)


class _Reservation(NamedTuple):
    id: int
    repository: str
    role: str
    epoch: int
    version: int
    digest: str
    required: str
    state: str
    leaf: int
    created_at: str
    entry: bytes | None
    payload: bytes | None

    @property
    def where(self) -> str:
        return (
            f"reservation {self.repository}/{self.role} epoch {self.epoch} version {self.version}"
        )

    def members(self) -> dict[str, object]:
        """What every entry about this version says."""
        return {
            "repository": self.repository,
            "role": self.role,
            "epoch": self.epoch,
            "version": self.version,
            "payload_sha256": self.digest,
        }

    def judged(self) -> Judged:
        payload = self.payload or b""
        return Judged(self.repository, self.role, self.digest, payload, self.required, self.leaf)


class _Signature(NamedTuple):
    fingerprint: str
    key: str
    signature: bytes
    leaf: int
    made_at: str
    entry: bytes | None
    key_name: str | None
    scheme: str | None
    public_der: bytes | None


def check_reservations(
    connection: sqlite3.Connection, facts: LogFacts, report: Report, progress: Progress
) -> None:
    """Reservations, their payloads and signatures, one by one."""
    trust = RecordedTrust(connection, facts.repositories, facts.imported)
    total = connection.execute("SELECT count(*) FROM reservations").fetchone()[0]
    for number, row in enumerate(connection.execute(_RESERVATIONS)):
        _Check(connection, facts, report, trust).reservation(_Reservation(*row))
        if number % _PROGRESS_EVERY == 0:
            progress(number, total)
    orphans = "SELECT digest FROM payloads EXCEPT SELECT digest FROM reservations"
    for (digest,) in connection.execute(orphans):
        report.flaw(f"payload {digest}", "no version is bound to it")


class _Check:
    """One reservation with its signatures."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        facts: LogFacts,
        report: Report,
        trust: RecordedTrust,
    ) -> None:
        self._connection = connection
        self._facts = facts
        self._report = report
        self._trust = trust

    def reservation(self, r: _Reservation) -> None:
        entry = parse(r.entry) if r.entry is not None else None
        announced = entry.get("event") if entry else None
        if announced not in _BINDING:
            self._report.flaw(r.where, f"entry {r.leaf} does not announce it")
        elif wrong := differing(entry, {**r.members(), "time": r.created_at}):
            self._report.flaw(r.where, f"entry {r.leaf} differs in {wrong}")
        imported = announced == Event.METADATA_IMPORTED
        if not imported and not self._facts.pay(r.leaf, Owed.RESERVATION):
            self._report.flaw(r.where, f"entry {r.leaf} announces another reservation")
        self._payload(r)
        signatures = [
            _Signature(*row) for row in self._connection.execute(_SIGNATURES, (r.id,)).fetchall()
        ]
        made = list(self._signatures(r, signatures))
        self._state(r, made, imported)
        self._thresholds(r, frozenset(s.fingerprint for s in signatures))
        if problem := self._trust.objection(r.judged()):
            self._report.flaw(r.where, problem)

    def _payload(self, r: _Reservation) -> None:
        if r.payload is None:
            self._report.flaw(r.where, f"its payload {r.digest} is missing")
        elif hashlib.sha256(r.payload).hexdigest() != r.digest:
            self._report.flaw(f"payload {r.digest}", f"it has other bytes ({r.where})")

    def _state(self, r: _Reservation, made: list[Fields], imported: bool) -> None:
        accepted = imported or any(
            e.get("accepted") is True or e.get("event") == Event.METADATA_IMPORTED for e in made
        )
        expected = "ACCEPTED" if accepted else "SIGNED" if made else "RESERVED"
        if not accepted and self._is_voided(r):
            expected = "VOIDED"
        if r.state != expected:
            self._report.flaw(r.where, f"it is {r.state}, but the log makes it {expected}")

    def _is_voided(self, r: _Reservation) -> bool:
        """Officers void a reservation, and a repair does that takes its version for used."""
        return not differing(self._facts.voided.get(r.leaf), r.members()) or any(
            (lost.repository, lost.role, lost.epoch) == (r.repository, r.role, r.epoch)
            and lost.first <= r.version <= lost.last
            and lost.leaf > r.leaf
            for lost in self._facts.lost
        )

    def _thresholds(self, r: _Reservation, signed: frozenset[str]) -> None:
        """What was accepted has the signatures that made it so, wherever they were made."""
        if r.state != "ACCEPTED":
            return
        for keys in decode(_sets_of, (r.required,)):
            if missing := keys.missing(signed):
                what = f"it was accepted, but {missing} signatures by {keys.delegator} are gone"
                self._report.flaw(r.where, what)

    def _signatures(self, r: _Reservation, found: list[_Signature]) -> Iterator[Fields]:
        """Check the signatures; yield the entries that announce them."""
        for s in found:
            entry = (parse(s.entry) if s.entry is not None else None) or {}
            where = f"signature of {r.where.removeprefix('reservation ')} by {s.fingerprint[:16]}"
            self._report.signatures += 1
            if s.key:
                self._made_here(r, s, entry, where)
            elif entry.get("event") == Event.SIGNATURE_UPLOADED:
                self._uploaded(r, s, entry, where)
            elif differing(entry, _imported(r, s)):
                self._report.flaw(where, f"entry {s.leaf} did not import it")
            self._verify(r, s, where)
            yield entry

    def _made_here(self, r: _Reservation, s: _Signature, entry: Fields, where: str) -> None:
        expected = {
            **r.members(),
            "event": Event.SIGNATURE_COMPLETED.value,
            "key": s.key,
            "key_sha256": s.fingerprint,
            "signature": s.signature.hex(),
            "time": s.made_at,
        }
        if wrong := differing(entry, expected):
            self._report.flaw(where, f"entry {s.leaf} differs in {wrong}")
        if not self._facts.pay(s.leaf, Owed.SIGNATURE):
            self._report.flaw(where, f"entry {s.leaf} announces another signature")
        if s.key_name != s.key:
            self._report.flaw(where, f"the key {s.key!r} is not the one with this fingerprint")

    def _uploaded(self, r: _Reservation, s: _Signature, entry: Fields, where: str) -> None:
        said = {
            "key_sha256": s.fingerprint,
            "signature": s.signature.hex(),
            "time": s.made_at,
        }
        if wrong := differing(entry, {**r.members(), **said}):
            self._report.flaw(where, f"entry {s.leaf} differs in {wrong}")
        if not self._facts.pay(s.leaf, Owed.SIGNATURE):
            self._report.flaw(where, f"entry {s.leaf} announces another signature")

    def _verify(self, r: _Reservation, s: _Signature, where: str) -> None:
        if r.payload is None:
            return
        if s.public_der is None or s.scheme is None:
            verdict = self._trust.verify(r.judged(), s.fingerprint, s.signature)
        else:
            verdict = _verdict(s.public_der, s.scheme, r.payload, s.signature)
        if not verdict:
            self._report.flaw(where, "it does not verify under any key that is recorded for it")


def _imported(r: _Reservation, s: _Signature) -> Mapping[str, object]:
    return {**r.members(), "event": Event.METADATA_IMPORTED.value, "time": s.made_at}


def _sets_of(row: codec.Row) -> tuple[KeySet, ...]:
    return codec.key_sets_of(row[0])


def _verdict(public_der: bytes, scheme: str, data: bytes, signature: bytes) -> bool:
    try:
        public_keys.verify(public_der, scheme, data, signature)
    except KeydError:
        return False
    return True


# --- announced token calls ------------------------------------------------------------------------

_INTENTS = """
SELECT i.leaf, i.kind, i.key, i.subject, i.digest, i.state, l.data
FROM intents AS i LEFT JOIN leaves AS l ON l.position = i.leaf ORDER BY i.leaf
"""


def check_intents(connection: sqlite3.Connection, facts: LogFacts, report: Report) -> None:
    """Every announced token call: as announced, and ended as the log says."""
    created = {str(f.get("cka_id")): name for name, f in facts.keys.items()}
    for row in connection.execute(_INTENTS):
        intent = decode(codec.intent_of, row[:6])
        entry = parse(row[6]) if row[6] is not None else None
        where = f"token call announced by entry {intent.leaf}"
        if wrong := differing(entry, _announcement(entry or {}, row)):
            report.flaw(where, f"the entry differs in {wrong}")
        if not facts.pay(intent.leaf, Owed.INTENT):
            report.flaw(where, "the entry announces none")
        outcome = facts.outcome(intent.leaf).value
        if intent.kind == "generate" and str((entry or {}).get("cka_id")) in created:
            outcome = "COMPLETED"
        if intent.state.value != outcome:
            report.flaw(where, f"it is {intent.state.value}, but the log ends it as {outcome}")
        report.open_intents += outcome == "OPEN"


def _announcement(entry: Fields, row: tuple[object, ...]) -> Mapping[str, object]:
    """The members that announce this token call, as far as its record tells them."""
    _, kind, key, subject, digest, *_ = row
    if kind == "generate":
        found = str(entry.get("cka_id"))
        same = all(c in "0123456789abcdef" for c in found) and (
            hashlib.sha256(bytes.fromhex(found)).hexdigest() == digest
        )
        cka_id = found if same else None
        return {"event": "key_intended", "key": key, "token": subject, "cka_id": cka_id}
    if kind == "destroy":
        return {
            "event": "key_deletion_intended",
            "key": key,
            "token": subject,
            "key_sha256": digest,
        }
    if kind == "sign_opaque":
        event = subject if subject != "opaque" else "opaque_intended"
        return {"event": event, "key": key, "data_sha256": digest}
    place = "/".join(str(entry.get(n)) for n in ("repository", "role", "epoch", "version"))
    event = "signature_intended" if place == subject else None
    return {"event": event, "key": key, "payload_sha256": digest}


# --- opaque signatures ----------------------------------------------------------------------------

_OPAQUE = """
SELECT o.key, o.digest, o.signature, o.leaf, o.made_at, l.data
FROM opaque_signatures AS o LEFT JOIN leaves AS l ON l.position = o.leaf
"""


def check_opaque(connection: sqlite3.Connection, facts: LogFacts, report: Report) -> None:
    """Opaque signatures against their entries; the bytes they cover are not kept."""
    for key, digest, signature, leaf, made_at, data in connection.execute(_OPAQUE):
        where = f"opaque signature of {digest} by {key!r}"
        expected: dict[str, object] = {"key": key, "data_sha256": digest, "time": made_at}
        if signature is None:
            expected["event"] = Event.OPAQUE_INTENDED.value
        else:
            expected |= {"event": Event.OPAQUE_COMPLETED.value, "signature": signature.hex()}
            if not facts.pay(leaf, Owed.OPAQUE):
                report.flaw(where, f"entry {leaf} announces another one")
        if wrong := differing(parse(data) if data is not None else None, expected):
            report.flaw(where, f"entry {leaf} differs in {wrong}")
