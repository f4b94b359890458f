"""What follows when a payload has reached every threshold it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from keyd.domain.delegations import delegated_keys
from keyd.domain.keys import Content, KeyState
from keyd.domain.payload import Payload
from keyd.domain.records import Reservation, ReservationState, VersionRecord, altered
from keyd.domain.trust import RepositoryState
from keyd.ports import Transaction, View
from keyd.services.evidence import role_or_new, sets_now


def lacking(view: View, reservation: Reservation, signed: Iterable[str]) -> int:
    """Signatures that a payload lacks to be accepted, given those by the keys `signed`.

    It needs the key lists it was judged under and, until it is accepted, those that are trusted by
    now as well: clients know no others.
    """
    fingerprints = frozenset(signed)
    missing = sum(keys.missing(fingerprints) for keys in reservation.required)
    if missing or reservation.state is ReservationState.ACCEPTED or _lists_stand(view, reservation):
        return missing
    now = sets_now(view, reservation.repository, reservation.role)
    return sum(keys.missing(fingerprints) for keys in now) if now else 1


def _lists_stand(view: View, reservation: Reservation) -> bool:
    """Whether the delegators whose lists were stored are still the newest trusted ones.

    A root that is not accepted can only follow the root it was judged under.
    """
    said = (keys.delegator.rpartition(":") for keys in reservation.required)
    return reservation.role == "root" or all(
        str(role_or_new(view, reservation.repository, name).trusted_version) == version
        for name, _, version in said
    )


def accept(tx: Transaction, reservation: Reservation, payload: Payload) -> Reservation:
    """Record that a reserved payload is trusted from now on, with all that this changes."""
    accepted = altered(reservation, state=ReservationState.ACCEPTED)
    tx.put_reservation(accepted, payload.raw)
    record = VersionRecord(
        repository=reservation.repository,
        role=reservation.role,
        epoch=reservation.epoch,
        version=reservation.version,
        digest=reservation.digest,
        accepted=True,
    )
    trust(tx, record, payload)
    return accepted


def trust(tx: Transaction, record: VersionRecord, payload: Payload) -> None:
    """Make an accepted version the newest trusted one of its role, unless a newer one is.

    A version of an epoch that has ended changes nothing: a recovery has left it behind.
    """
    tx.put_version(record)
    role = role_or_new(tx, record.repository, record.role)
    if record.epoch != role.epoch:
        return
    newer = record.version >= role.trusted_version or role.trusts_older_epoch
    if not newer or record.digest == role.trusted_digest:
        return
    tx.put_role(
        altered(
            role,
            high_water=max(role.high_water, record.version),
            trusted_version=record.version,
            trusted_digest=record.digest,
        )
    )
    if record.role not in ("snapshot", "timestamp"):
        _hand_out(tx, record, payload)
    if record.role == "root":
        _activate_repository(tx, record.repository)


def _hand_out(tx: Transaction, record: VersionRecord, payload: Payload) -> None:
    """Record the roles that a root or targets payload gives to keys, and activate those keys."""
    delegations = delegated_keys(payload)
    tx.put_delegations(record.repository, record.role, delegations)
    for fingerprint in {delegation.fingerprint for delegation in delegations}:
        key = tx.key_by_fingerprint(fingerprint)
        if key and key.content is Content.TUF and key.state is KeyState.PRE_ACTIVE:
            tx.put_key(replace(key, state=KeyState.ACTIVE))


def _activate_repository(tx: Transaction, name: str) -> None:
    repository = tx.repository(name)
    if repository is not None and repository.state is RepositoryState.BOOTSTRAP:
        tx.put_repository(replace(repository, state=RepositoryState.ACTIVE, intended_root=None))
