"""Reading the ledger through one connection: the `View` port."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

from keyd.domain.audit import Checkpoint, Leaf
from keyd.domain.keys import Key
from keyd.domain.officers import OfficerSet
from keyd.domain.records import (
    Intent,
    LedgerIdentity,
    LostVersions,
    Material,
    OpaqueSignature,
    PinAttempt,
    Repository,
    RequestRecord,
    Reservation,
    Role,
    StoredSignature,
    TokenIdentity,
    VersionRecord,
)
from keyd.domain.records_quorum import Approval, Proposal
from keyd.ledger import codec, officers
from keyd.ledger.codec import Row, corrupt, decode
from keyd.ledger.delegation_view import DelegationReading, name_of
from keyd.ledger.log import StoredLog
from keyd.ledger.marks import Mark

T = TypeVar("T")

# Whole statements, made once: SQLite's cache and a snapshot's memory look them up by their text.
_KEY = (
    "SELECT name, token, cka_id, scheme, public_der, content, state, origin, created_at, rsa_bits, "
    "fingerprint FROM keys"
)
_KEY_NAMED = f"{_KEY} WHERE name = ?"
_KEY_OF_MATERIAL = f"{_KEY} WHERE fingerprint = ?"
_REPOSITORY = (
    "SELECT name, state, development, imported, created_at, intended_root, revision "
    "FROM repositories"
)
_REPOSITORY_NAMED = f"{_REPOSITORY} WHERE name = ?"
_ROLE = (
    "SELECT repository, name, epoch, high_water, trusted_version, trusted_digest, rules, revision "
    "FROM roles"
)
_ROLE_NAMED = f"{_ROLE} WHERE repository = ? AND name = ?"
_RESERVATION = (
    "SELECT repository, role, epoch, version, digest, required, state, leaf, created_at "
    "FROM reservations"
)
_RESERVATION_OF_VERSION = (
    f"{_RESERVATION} WHERE repository = ? AND role = ? AND epoch = ? AND version = ? "
    "AND state <> 'VOIDED'"
)
_VOIDED = (
    "SELECT digest FROM reservations WHERE repository = ? AND role = ? AND epoch = ? "
    "AND version = ? AND state = 'VOIDED'"
)
_NEWEST_PENDING = (
    f"{_RESERVATION} WHERE repository = ? AND role = ? AND epoch = ? AND version > ? "
    "AND state <> 'VOIDED' AND state <> 'ACCEPTED' ORDER BY version DESC LIMIT 1"
)
_WAITING = f"""{_RESERVATION} WHERE state <> 'VOIDED' AND state <> 'ACCEPTED'
    ORDER BY repository, role, version"""
_LOST = "SELECT repository, role, epoch, first, last, digest, leaf FROM lost_versions"
_REQUEST = "SELECT principal, request_id, body_digest, outcome, at FROM requests"
_REQUEST_NAMED = f"{_REQUEST} WHERE principal = ? AND request_id = ?"
# Many at once. CROSS JOIN keeps the order of the tables: each that is wanted is looked up.
_WANTED = (
    "FROM json_each(?) AS wanted CROSS JOIN {table} "
    "ON {0} = json_extract(wanted.value, '$[0]') AND {1} = json_extract(wanted.value, '$[1]')"
)
_ROLES_WANTED = _ROLE.replace("FROM roles", _WANTED.format("repository", "name", table="roles"))
_REQUESTS_WANTED = _REQUEST.replace(
    "FROM requests", _WANTED.format("principal", "request_id", table="requests")
)
_INTENT = "SELECT leaf, kind, key, subject, digest, state FROM intents"
# A version is known when it was accepted or imported, or is reserved here. One statement looks up
# any number: a snapshot may refer to thousands of roles. CROSS JOIN keeps the order of the tables:
# left to itself SQLite walks through all roles of the repository, whatever is wanted.
_VERSIONS = """
SELECT role.repository, role.name, role.epoch, wanted.version,
    coalesce(known.digest, held.digest),
    coalesce(known.accepted, 0) OR coalesce(held.state = 'ACCEPTED', 0),
    coalesce(known.imported, 0), known.length, known.hashes
FROM (
    SELECT json_extract(value, '$[0]') AS role, json_extract(value, '$[1]') AS version
    FROM json_each(:wanted)
) AS wanted
CROSS JOIN roles AS role ON role.repository = :repository AND role.name = wanted.role
LEFT JOIN versions AS known
    ON known.repository = role.repository AND known.role = role.name
    AND known.epoch = role.epoch AND known.version = wanted.version
LEFT JOIN reservations AS held
    ON held.repository = role.repository AND held.role = role.name
    AND held.epoch = role.epoch AND held.version = wanted.version AND held.state <> 'VOIDED'
WHERE known.digest IS NOT NULL OR held.digest IS NOT NULL
"""


class SqliteView(DelegationReading):
    """One consistent moment of the ledger. Ends with the transaction it reads in."""

    def identity(self) -> LedgerIdentity:
        """Raises: StateCorrupt when the one row is missing."""
        found = self._one(
            codec.identity_of, "SELECT ledger_id, origin, development, created_at FROM identity"
        )
        if found is None:
            raise corrupt("the ledger has no identity")
        return found

    def setting(self, name: str) -> str | None:
        row = self._execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def expect(self, roles: Sequence[tuple[str, str]], requests: Sequence[tuple[str, str]]) -> None:
        """Nothing is kept here, so nothing is read ahead."""

    # --- keys ---------------------------------------------------------------------------------

    def key(self, name: str) -> Key | None:
        return self._one(codec.key_of, _KEY_NAMED, name)

    def key_by_fingerprint(self, fingerprint: str) -> Key | None:
        return self._one(codec.key_of, _KEY_OF_MATERIAL, fingerprint)

    def keys(self) -> tuple[Key, ...]:
        return self._all(codec.key_of, f"{_KEY} ORDER BY name")

    def material(self, fingerprint: str) -> Material | None:
        return self._one(
            codec.material_of,
            "SELECT repository, uses FROM material WHERE fingerprint = ?",
            fingerprint,
        )

    # --- repositories, roles, versions --------------------------------------------------------

    def repository(self, name: str) -> Repository | None:
        return self._one(codec.repository_of, _REPOSITORY_NAMED, name)

    def repositories(self) -> tuple[Repository, ...]:
        return self._all(codec.repository_of, f"{_REPOSITORY} ORDER BY name")

    def role(self, repository: str, role: str) -> Role | None:
        return self._one(codec.role_of, _ROLE_NAMED, repository, role)

    def roles(self, repository: str) -> tuple[Role, ...]:
        return self._all(codec.role_of, f"{_ROLE} WHERE repository = ? ORDER BY name", repository)

    def reservation(
        self, repository: str, role: str, epoch: int, version: int
    ) -> Reservation | None:
        """The reservation in force; voided ones are history."""
        return self._one(
            codec.reservation_of, _RESERVATION_OF_VERSION, repository, role, epoch, version
        )

    def voided(self, mark: Mark) -> frozenset[str]:
        """The payloads that the mark's version was bound to once."""
        rows = self._execute(_VOIDED, (mark.repository, mark.role, mark.epoch, mark.version))
        return frozenset(digest for (digest,) in rows.fetchall())

    def newest_pending(
        self, repository: str, role: str, epoch: int, above: int
    ) -> Reservation | None:
        return self._one(codec.reservation_of, _NEWEST_PENDING, repository, role, epoch, above)

    def waiting(self) -> tuple[Reservation, ...]:
        """Every version that is neither accepted nor voided, those of ended epochs too."""
        return self._all(codec.reservation_of, _WAITING)

    def versions(
        self, repository: str, wanted: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], VersionRecord]:
        named = {"repository": repository, "wanted": json.dumps(list(wanted))}
        records = (
            decode(codec.version_of, row) for row in self._execute(_VERSIONS, named).fetchall()
        )
        return {(record.role, record.version): record for record in records}

    def lost_version(
        self, repository: str, role: str, epoch: int, version: int
    ) -> LostVersions | None:
        return self._one(
            codec.lost_of,
            f"{_LOST} WHERE repository = ? AND role = ? AND epoch = ? AND ? BETWEEN first AND last",
            repository,
            role,
            epoch,
            version,
        )

    def lost_versions(self, repository: str) -> tuple[LostVersions, ...]:
        return self._all(
            codec.lost_of,
            f"{_LOST} WHERE repository = ? ORDER BY role, epoch, first",
            repository,
        )

    def all_lost_versions(self) -> tuple[LostVersions, ...]:
        return self._all(codec.lost_of, _LOST)

    def signatures(self, reservation: Reservation) -> tuple[StoredSignature, ...]:
        r = reservation
        return self._all(
            codec.signature_of,
            "SELECT s.fingerprint, s.key, s.signature, s.leaf, s.made_at FROM reservations AS r "
            "JOIN signatures AS s ON s.reservation = r.id WHERE r.repository = ? AND r.role = ? "
            "AND r.epoch = ? AND r.version = ? AND r.digest = ? AND r.state <> 'VOIDED' "
            "ORDER BY s.leaf",
            r.repository,
            r.role,
            r.epoch,
            r.version,
            r.digest,
        )

    def payload(self, digest: str) -> bytes:
        row = self._execute("SELECT data FROM payloads WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise corrupt(f"the payload {digest} is missing")
        if hashlib.sha256(row[0]).hexdigest() != digest:
            raise corrupt(f"the payload {digest} has other bytes")
        return bytes(row[0])

    # --- requests and token calls -------------------------------------------------------------

    def request(self, principal: str, request_id: str) -> RequestRecord | None:
        return self._one(
            codec.request_of,
            _REQUEST_NAMED,
            principal,
            request_id,
        )

    def opaque(self, key: str, digest: str) -> OpaqueSignature | None:
        return self._one(
            codec.opaque_of,
            "SELECT key, digest, signature, leaf, made_at FROM opaque_signatures "
            "WHERE key = ? AND digest = ?",
            key,
            digest,
        )

    def open_intents(self) -> tuple[Intent, ...]:
        return self._all(codec.intent_of, f"{_INTENT} WHERE state = 'OPEN' ORDER BY leaf")

    def deletion(self, key: str) -> Intent | None:
        return self._one(
            codec.intent_of,
            f"{_INTENT} WHERE kind = 'destroy' AND key = ? ORDER BY leaf DESC LIMIT 1",
            key,
        )

    # --- officers -----------------------------------------------------------------------------

    def officers(self) -> OfficerSet:
        return OfficerSet(self._all(officers.officer_of_row, officers.OFFICERS))

    def officer_rows(self) -> tuple[tuple[str, str, int], ...]:
        """Name, document and leaf of every officer."""
        return tuple(self._execute(officers.OFFICER_ROWS))

    def base_rule_row(self) -> tuple[int, int] | None:
        """Threshold and leaf of the base rule."""
        row: tuple[int, int] | None = self._execute(officers.BASE_RULE_ROW).fetchone()
        return row

    def base_threshold(self) -> int:
        row = self._execute(officers.BASE_RULE).fetchone()
        return 0 if row is None else int(row[0])

    def proposal(self, name: str) -> Proposal | None:
        return self._one(officers.proposal_of, officers.PROPOSAL_NAMED, name)

    def proposals(self, operation_sha256: str = "") -> tuple[Proposal, ...]:
        if not operation_sha256:
            return self._all(officers.proposal_of, officers.PROPOSALS)
        return self._all(officers.proposal_of, officers.PROPOSALS_OF, operation_sha256)

    def proposal_names(self) -> tuple[str, ...]:
        return self._all(name_of, officers.PROPOSAL_NAMES)

    def open_proposals(self, operation_sha256: str = "") -> tuple[Proposal, ...]:
        if not operation_sha256:
            return self._all(officers.proposal_of, officers.OPEN_PROPOSALS)
        return self._all(officers.proposal_of, officers.OPEN_PROPOSALS_OF, operation_sha256)

    def approvals(self, proposal: str) -> tuple[Approval, ...]:
        return self._all(officers.approval_of, officers.APPROVALS_OF, proposal)

    # --- tokens -------------------------------------------------------------------------------

    def token_identity(self, token: str) -> TokenIdentity | None:
        return self._one(
            codec.token_identity_of,
            "SELECT token, serial, label, manufacturer, model FROM token_identities "
            "WHERE token = ?",
            token,
        )

    def pin_attempt(self, token: str) -> PinAttempt | None:
        return self._one(
            codec.pin_attempt_of,
            "SELECT token, credential, rejected, at, details FROM pin_attempts WHERE token = ?",
            token,
        )

    def quarantine(self, token: str) -> str | None:
        row = self._execute("SELECT reason FROM quarantines WHERE token = ?", (token,)).fetchone()
        return None if row is None else str(row[0])

    # --- the log ------------------------------------------------------------------------------

    def log_size(self) -> int:
        return self._log.size()

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        return self._log.leaves(start, end)

    def checkpoint(self) -> Checkpoint | None:
        """The newest signed checkpoint."""
        return self._one(
            codec.checkpoint_of,
            "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1",
        )


class Snapshot(SqliteView):
    """A view that nothing is written under: it asks SQLite for each record once.

    Every payload of a batch wants the same repository, key and delegators, and each statement gives
    up the interpreter's lock several times.
    """

    def __init__(self, connection: sqlite3.Connection, log: StoredLog) -> None:
        super().__init__(connection, log)
        self._known: dict[tuple[object, ...], object] = {}

    def expect(self, roles: Sequence[tuple[str, str]], requests: Sequence[tuple[str, str]]) -> None:
        for make, single, many, wanted in (
            (codec.role_of, _ROLE_NAMED, _ROLES_WANTED, roles),
            (codec.request_of, _REQUEST_NAMED, _REQUESTS_WANTED, requests),
        ):
            if not wanted:
                continue
            self._known.update({(single, *named): None for named in wanted})
            for row in self._execute(many, (json.dumps(wanted),)).fetchall():
                self._known[(single, row[0], row[1])] = decode(make, row)

    def _one(self, make: Callable[[Row], T], sql: str, *values: object) -> T | None:
        asked = (sql, *values)
        if asked not in self._known:
            self._known[asked] = super()._one(make, sql, *values)
        return cast("T | None", self._known[asked])

    def _all(self, make: Callable[[Row], T], sql: str, *values: object) -> tuple[T, ...]:
        asked = (sql, *values)
        if asked not in self._known:
            self._known[asked] = super()._all(make, sql, *values)
        return cast("tuple[T, ...]", self._known[asked])
