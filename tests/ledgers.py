"""Ledgers on disk and the pieces of work that a signature consists of, without the use cases."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.domain.audit import Entry, Event
from keyd.domain.checkpoint import LogKey, signed, text_of
from keyd.domain.keys import Content, Key, KeyState, Origin, Scheme
from keyd.domain.records import (
    Intent,
    IntentKind,
    IntentState,
    LedgerIdentity,
    Repository,
    Reservation,
    ReservationState,
    Role,
    StoredSignature,
    VersionRecord,
)
from keyd.domain.trust import KeySet, RepositoryState
from keyd.errors import KeydError, StateCorrupt
from keyd.ledger.backup import restore
from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger
from keyd.ledger.repair import Repaired, repair
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.transaction import SqliteTransaction
from keyd.ports import Transaction
from tests.fakes import TestClock

ORIGIN = "keyd.test/log"
NOW = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
CLOCK = TestClock(NOW)
REPOSITORY = "demo"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def der(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key(name: str, private: Ed25519PrivateKey, content: Content) -> Key:
    return Key(
        name=name,
        token="soft",
        cka_id=name.encode(),
        scheme=Scheme.ED25519,
        public_der=der(private),
        content=content,
        state=KeyState.ACTIVE,
        origin=Origin.GENERATED,
        created_at=NOW,
    )


KEY = _key("signer", PRIVATE, Content.TUF)
LOG_KEY = _key("keyd-log", LOG_PRIVATE, Content.LOG)
REQUIRED = (KeySet("root:1", 1, {"a" * 64: KEY.fingerprint}),)


@dataclass(frozen=True)
class Home:
    """Where a ledger and its anchor live."""

    base: Path

    @property
    def state(self) -> Path:
        return self.base / "ledger"

    @property
    def anchor(self) -> Path:
        return self.base / "anchor"

    @property
    def database(self) -> Path:
        return self.state / "ledger.db"

    def create(self, **options: bool) -> LedgerIdentity:
        return create_ledger(
            self.state,
            origin=ORIGIN,
            development=False,
            clock=TestClock(NOW),
            anchor=self.anchor,
            **options,
        )

    def open(self, stall_s: float = 30.0) -> SqliteLedger:
        """Patient by default: a busy machine is no hung disk."""
        return open_ledger(self.state, anchor=self.anchor, stall_s=stall_s)


@contextmanager
def past_triggers(database: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody with root can change it, keys and checks aside.

    The triggers stand afterwards as before: their absence would be found by itself.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, sql in triggers:
            connection.execute(sql)


def furnished(base: Path) -> SqliteLedger:
    """A new ledger with a log key, a signing key and an active repository."""
    home = Home(base)
    home.create()
    ledger = home.open()
    ledger.transact(furnish)
    return ledger


def furnish(tx: Transaction) -> None:
    for key in (LOG_KEY, KEY):
        fields = {"key": key.name, "key_sha256": key.fingerprint, "content": key.content.value}
        tx.append(entry(Event.KEY_CREATED, fields))
        tx.put_key(key)
    tx.put_repository(Repository(REPOSITORY, RepositoryState.ACTIVE, False, False, NOW))
    tx.append(entry(Event.REPOSITORY_BOOTSTRAPPED, {"repository": REPOSITORY}))


def entry(event: Event, fields: Mapping[str, str | int | bool | list[str]]) -> Entry:
    return Entry(event=event, at=NOW, principal="test", request_id="r-1", fields=fields)


def payload(version: int, role: str = "targets", salt: str = "") -> bytes:
    kind = role if role in ("root", "snapshot", "timestamp") else "targets"
    return f'{{"_type":"{kind}","role":"{role}","salt":"{salt}","version":{version}}}'.encode()


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def reservation(
    version: int,
    role: str = "targets",
    *,
    salt: str = "",
    leaf: int = 0,
    epoch: int = 0,
    state: ReservationState = ReservationState.RESERVED,
) -> Reservation:
    return Reservation(
        repository=REPOSITORY,
        role=role,
        epoch=epoch,
        version=version,
        digest=digest(payload(version, role, salt)),
        required=REQUIRED,
        state=state,
        leaf=leaf,
        created_at=NOW,
    )


def named(about: Reservation) -> dict[str, str | int | bool | list[str]]:
    return {
        "repository": about.repository,
        "role": about.role,
        "epoch": about.epoch,
        "version": about.version,
        "payload_sha256": about.digest,
        "key": KEY.name,
        "key_sha256": KEY.fingerprint,
    }


def reserve(
    version: int, role: str = "targets", *, salt: str = "", epoch: int = 0
) -> Callable[[Transaction], Reservation]:
    """The first transaction of a signature."""

    def work(tx: Transaction) -> Reservation:
        made = reservation(version, role, salt=salt, epoch=epoch)
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, named(made)))
        made = replace(made, leaf=leaf)
        tx.put_reservation(made, payload(version, role, salt))
        tx.put_intent(_intent(made, IntentState.OPEN))
        return made

    return work


def complete(
    made: Reservation, signature: bytes | None = None
) -> Callable[[Transaction], StoredSignature]:
    """The second transaction: the signature, accepted at once."""

    def work(tx: Transaction) -> StoredSignature:
        raw = tx.payload(made.digest)
        value = PRIVATE.sign(raw) if signature is None else signature
        fields = {**named(made), "intent": made.leaf, "signature": value.hex(), "accepted": True}
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, fields))
        stored = StoredSignature(KEY.fingerprint, KEY.name, value, leaf, NOW)
        tx.put_intent(_intent(made, IntentState.COMPLETED))
        tx.put_signature(made, stored)
        tx.put_reservation(replace(made, state=ReservationState.ACCEPTED), raw)
        tx.put_version(
            VersionRecord(made.repository, made.role, made.epoch, made.version, made.digest, True)
        )
        role = tx.role(made.repository, made.role)
        assert role is not None
        tx.put_role(replace(role, trusted_version=made.version, trusted_digest=made.digest))
        return stored

    return work


def _intent(made: Reservation, state: IntentState) -> Intent:
    subject = f"{made.repository}/{made.role}/{made.epoch}/{made.version}"
    return Intent(made.leaf, IntentKind.SIGN, KEY.name, subject, made.digest, state)


def sign(ledger: SqliteLedger, version: int, role: str = "targets", salt: str = "") -> Reservation:
    """Reserve and complete one version."""
    made = ledger.transact(reserve(version, role, salt=salt))
    ledger.transact(complete(made))
    return made


def sign_checkpoint(ledger: SqliteLedger) -> None:
    """Sign and store the head as it is now."""
    head = ledger.unsigned_checkpoint()
    key = LogKey(head.origin, LOG_KEY.public_der)
    ledger.put_checkpoint(signed(head, key, LOG_PRIVATE.sign(text_of(head))))


def role_of(ledger: SqliteLedger, role: str = "targets") -> Role:
    found = ledger.read(lambda view: view.role(REPOSITORY, role))
    assert found is not None
    return found


def refused(ledger: SqliteLedger, work: Callable[[SqliteTransaction], object]) -> KeydError:
    """What the work is refused with; that nothing of it is stored."""
    before = ledger.read(lambda view: view.log_size())
    try:
        ledger.transact(work)
    except KeydError as error:
        assert ledger.read(lambda view: view.log_size()) == before
        return error
    raise AssertionError("the ledger took it")


# --- ledgers that lost something -----------------------------------------------------------------


def go_on(home: Home, last: int, role: str = "targets") -> None:
    """Open it, sign every version up to `last` that is not signed yet, close it."""
    ledger = home.open()
    first = ledger.read(lambda view: view.role(REPOSITORY, role))
    for version in range(first.high_water + 1 if first else 1, last + 1):
        sign(ledger, version, role)
    ledger.close()


def put_back(home: Home, copy: Path) -> None:
    restore(copy, home.state, NOW)


def fix(home: Home, raise_to: dict[tuple[str, str], int] | None = None, **more: bool) -> Repaired:
    """Repair it as an operator would."""
    return repair(
        home.state,
        clock=CLOCK,
        principal="operator",
        anchor=home.anchor,
        raise_to=raise_to,
        **more,
    )


def refused_to_write(home: Home) -> str:
    """Why the ledger refuses; that reading works and nothing can be written."""
    ledger = home.open()
    before = ledger.read(lambda view: view.log_size())
    with pytest.raises(StateCorrupt) as caught:
        ledger.transact(reserve(100))
    each = ledger.transact_each([reserve(100), reserve(101)])
    assert [type(error) for error in each] == [StateCorrupt, StateCorrupt]
    assert ledger.read(lambda view: view.log_size()) == before
    refusal = ledger.refusal()
    ledger.close()
    assert refusal is not None
    assert refusal.startswith(caught.value.reason)
    return refusal
