"""Metadata files written again from what is recorded: payload, signatures, key ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from keyd.domain import metadata_file
from keyd.domain.delegations import key_set
from keyd.domain.metadata_file import facts_of
from keyd.domain.payload import Payload
from keyd.domain.records import Reservation, ReservationState
from keyd.domain.trust import FileFacts, KeySet
from keyd.ports import View
from keyd.services.evidence import role_or_new


def recorded_payload(view: View, digest: str) -> Payload:
    """A payload that parsed strictly before it was recorded."""
    raw = view.payload(digest)
    return Payload(raw=raw, signed=json.loads(raw, strict=False))


def signatures_of(view: View, reservation: Reservation) -> tuple[tuple[str, str], ...]:
    """(key id, hex) pairs: one signature stands under every id that its key is listed by.

    One hardware key may have several ids where its spelling changed, and clients count ids. The
    order is that of the lists, a root's own before the one it replaces.
    """
    made = {s.fingerprint: s.signature.hex() for s in view.signatures(reservation)}
    found: dict[str, str] = {}
    for keys in listed_in_order(view, reservation):
        for keyid, fingerprint in keys.fingerprints.items():
            if fingerprint in made:
                found.setdefault(keyid, made[fingerprint])
    return tuple(found.items())


def new_file(view: View, reservation: Reservation) -> bytes:
    """The file of a version as it will be published."""
    payload = recorded_payload(view, reservation.digest)
    return metadata_file.write(payload, signatures_of(view, reservation))


def published_file(
    view: View,
    repository: str,
    role: str,
    version: int,
    *,
    epoch: int | None = None,
    wanted: FileFacts | None = None,
) -> bytes | None:
    """The published file of a version; None if it cannot be written as it was.

    `epoch` None: the newest one that has the version.

    Who published it may have ordered and laid it out otherwise. What other files say of it is
    `wanted`: the usual ways are tried. Where nothing names it by hash, any way will do.
    """
    newest = role_or_new(view, repository, role).epoch
    for each in range(newest, -1, -1) if epoch is None else (epoch,):
        reservation = view.reservation(repository, role, each, version)
        if reservation is not None and reservation.state is ReservationState.ACCEPTED:
            payload = recorded_payload(view, reservation.digest)
            layouts = _layouts(payload, signatures_of(view, reservation))
            return next((content for content in layouts if _fits(content, wanted)), None)
    return None


def _fits(content: bytes, wanted: FileFacts | None) -> bool:
    if wanted is None:
        return True
    facts = facts_of(content)
    length_fits = wanted.length in (0, facts.length)
    return length_fits and all(
        facts.hashes.get(name, value) == value for name, value in wanted.hashes.items()
    )


def _layouts(payload: Payload, signatures: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    for ordered in (signatures, sorted(signatures)):
        content = metadata_file.write(payload, ordered)
        yield content
        yield json.dumps(json.loads(content), indent=1, sort_keys=True).encode()


def listed_in_order(view: View, reservation: Reservation) -> tuple[KeySet, ...]:
    """The key lists of a version in the order of the metadata they come from.

    The ledger keeps them sorted by key id.
    """
    return tuple(_as_listed(view, reservation, keys) for keys in reversed(reservation.required))


def _as_listed(view: View, reservation: Reservation, keys: KeySet) -> KeySet:
    name, _, version = keys.delegator.rpartition(":")
    if not version.isdecimal():
        name, version = "root", "0"
    own = recorded_payload(view, reservation.digest) if reservation.role == name else None
    if own is not None and version in (str(reservation.version), "0"):
        source: Payload | None = own
    else:
        source = _delegator(view, reservation.repository, name, int(version))
    ordered = key_set(source, reservation.role, keys.delegator) if source else None
    return ordered if ordered is not None and _same(ordered, keys) else keys


def _same(ordered: KeySet, keys: KeySet) -> bool:
    return dict(ordered.fingerprints) == dict(keys.fingerprints)


def _delegator(view: View, repository: str, name: str, version: int) -> Payload | None:
    epoch = role_or_new(view, repository, name).epoch
    found = view.reservation(repository, name, epoch, version)
    return recorded_payload(view, found.digest) if found is not None else None


def signed_by(view: View, reservation: Reservation) -> Mapping[str, bytes]:
    """Signatures by fingerprint."""
    return {s.fingerprint: s.signature for s in view.signatures(reservation)}
