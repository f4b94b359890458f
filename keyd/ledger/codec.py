"""Records to columns and back. JSON columns are compact with sorted members.

`x_of` reads a row (or text) with columns in the order of the SELECTs in `view`, `x_text` and
`x_row` write.
"""

# ruff: noqa: D103 - the names say it all

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from keyd.domain.audit import Checkpoint
from keyd.domain.checkpoint import parse_checkpoint
from keyd.domain.keys import Content, Key, KeyState, Origin, Scheme
from keyd.domain.records import (
    Intent,
    IntentKind,
    IntentState,
    LedgerIdentity,
    LostVersions,
    Material,
    OpaqueSignature,
    PinAttempt,
    Repository,
    RequestRecord,
    Reservation,
    ReservationState,
    Role,
    StoredSignature,
    TokenIdentity,
    VersionRecord,
)
from keyd.domain.rule_levels import rules_of_text, rules_text
from keyd.domain.trust import FileFacts, KeySet, RepositoryState
from keyd.errors import InvalidRequest, StateCorrupt

T = TypeVar("T")
Row = tuple[Any, ...]

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def corrupt(what: str) -> StateCorrupt:
    """The error for a ledger that contradicts itself."""
    return StateCorrupt(
        "LEDGER_CORRUPT", f"{what}; stop keyd, run keyd audit verify, restore a backup"
    )


def decode(make: Callable[[Row], T], row: Row) -> T:
    """Apply `make` to a stored row. Raises: StateCorrupt when the row makes no sense."""
    try:
        return make(row)
    except (ValueError, TypeError, KeyError, AttributeError, InvalidRequest) as error:
        raise corrupt(f"a stored row cannot be read as {make.__name__}") from error


def time_text(at: datetime) -> str:
    """A timezone-aware time as ISO 8601 in UTC with microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def time_of(text: str) -> datetime:
    """The inverse of `time_text`."""
    at = datetime.fromisoformat(text)
    # Python takes other forms of the same time, like any letter between its halves.
    if at.tzinfo is None or time_text(at) != text:
        raise ValueError("a stored time has another form")
    return at


def identity_of(row: Row) -> LedgerIdentity:
    return LedgerIdentity(
        ledger_id=row[0], origin=row[1], development=bool(row[2]), created_at=time_of(row[3])
    )


def checkpoint_of(row: Row) -> Checkpoint:
    return parse_checkpoint(row[0])


# --- keys -----------------------------------------------------------------------------------------


def key_row(key: Key) -> Row:
    return (
        key.name,
        key.token,
        key.cka_id,
        key.scheme.value,
        key.public_der,
        key.content.value,
        key.state.value,
        key.origin.value,
        time_text(key.created_at),
        key.rsa_bits,
        key.fingerprint,
    )


@lru_cache(maxsize=4096)
def key_of(row: Row) -> Key:
    key = Key(
        name=row[0],
        token=row[1],
        cka_id=row[2],
        scheme=Scheme(row[3]),
        public_der=row[4],
        content=Content(row[5]),
        state=KeyState(row[6]),
        origin=Origin(row[7]),
        created_at=time_of(row[8]),
        rsa_bits=row[9],
    )
    if key.fingerprint != row[10]:
        raise ValueError("the public key has another fingerprint")
    return key


def material_of(row: Row) -> Material:
    return Material(repository=row[0], uses=frozenset(json.loads(row[1])))


def uses_text(uses: Iterable[str]) -> str:
    return _encode(sorted(uses))


# --- repositories and roles -----------------------------------------------------------------------


def repository_of(row: Row) -> Repository:
    return Repository(
        name=row[0],
        state=RepositoryState(row[1]),
        development=bool(row[2]),
        imported=bool(row[3]),
        created_at=time_of(row[4]),
        intended_root=None if row[5] is None else key_sets_of(row[5])[0],
        revision=row[6],
    )


def role_of(row: Row) -> Role:
    return Role(
        repository=row[0],
        name=row[1],
        epoch=row[2],
        high_water=row[3],
        trusted_version=row[4],
        trusted_digest=row[5],
        rules=None if row[6] is None else rules_of_text(row[6]),
        revision=row[7],
    )


def role_row(role: Role) -> Row:
    return (
        role.repository,
        role.name,
        role.epoch,
        role.high_water,
        role.trusted_version,
        role.trusted_digest,
        None if role.rules is None else rules_text(role.rules),
        role.revision,
    )


def key_sets_text(sets: Iterable[KeySet]) -> str:
    return _encode([[s.delegator, s.threshold, dict(s.fingerprints)] for s in sets])


# Thousands of reservations share the few key sets that are in force.
@lru_cache(maxsize=1024)
def key_sets_of(text: str) -> tuple[KeySet, ...]:
    return tuple(
        KeySet(delegator=delegator, threshold=threshold, fingerprints=fingerprints)
        for delegator, threshold, fingerprints in json.loads(text)
    )


# --- reservations, signatures, versions -----------------------------------------------------------


def reservation_of(row: Row) -> Reservation:
    return Reservation(
        repository=row[0],
        role=row[1],
        epoch=row[2],
        version=row[3],
        digest=row[4],
        required=key_sets_of(row[5]),
        state=ReservationState(row[6]),
        leaf=row[7],
        created_at=time_of(row[8]),
    )


def reservation_row(reservation: Reservation) -> Row:
    return (
        reservation.repository,
        reservation.role,
        reservation.epoch,
        reservation.version,
        reservation.digest,
        key_sets_text(reservation.required),
        reservation.state.value,
        reservation.leaf,
        time_text(reservation.created_at),
    )


def signature_row(signature: StoredSignature) -> Row:
    return (
        signature.fingerprint,
        signature.key,
        signature.signature,
        signature.leaf,
        time_text(signature.made_at),
    )


def signature_of(row: Row) -> StoredSignature:
    return StoredSignature(
        fingerprint=row[0], key=row[1], signature=row[2], leaf=row[3], made_at=time_of(row[4])
    )


def version_of(row: Row) -> VersionRecord:
    file = None
    if row[7] is not None:
        file = FileFacts(length=row[7], hashes=json.loads(row[8]))
    return VersionRecord(
        repository=row[0],
        role=row[1],
        epoch=row[2],
        version=row[3],
        digest=row[4],
        accepted=bool(row[5]),
        imported=bool(row[6]),
        file=file,
    )


def lost_of(row: Row) -> LostVersions:
    return LostVersions(*row)


def hashes_text(hashes: Mapping[str, str]) -> str:
    return _encode(dict(hashes))


# --- intents, requests, tokens --------------------------------------------------------------------


def intent_of(row: Row) -> Intent:
    return Intent(
        leaf=row[0],
        kind=IntentKind(row[1]),
        key=row[2],
        subject=row[3],
        digest=row[4],
        state=IntentState(row[5]),
    )


def request_of(row: Row) -> RequestRecord:
    return RequestRecord(
        principal=row[0], request_id=row[1], body_digest=row[2], outcome=row[3], at=time_of(row[4])
    )


def opaque_of(row: Row) -> OpaqueSignature:
    return OpaqueSignature(
        key=row[0], digest=row[1], signature=row[2], leaf=row[3], made_at=time_of(row[4])
    )


def token_identity_of(row: Row) -> TokenIdentity:
    return TokenIdentity(
        token=row[0], serial=row[1], label=row[2], manufacturer=row[3], model=row[4]
    )


def pin_attempt_of(row: Row) -> PinAttempt:
    return PinAttempt(
        token=row[0],
        credential=row[1],
        rejected=bool(row[2]),
        at=time_of(row[3]),
        details=json.loads(row[4]),
    )


def details_text(details: Mapping[str, str]) -> str:
    return _encode(dict(details))
