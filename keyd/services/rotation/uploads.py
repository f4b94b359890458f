"""Signatures made elsewhere: verified, recorded, counted like those made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keyd.domain import public_keys
from keyd.domain.audit import Entry, Event
from keyd.domain.keys import KeyState
from keyd.domain.payload import Payload
from keyd.domain.records import Reservation, ReservationState, StoredSignature
from keyd.domain.records_rotation import Rotation
from keyd.errors import InvalidRequest, NotAllowed
from keyd.ports import Transaction, View
from keyd.services.acceptance import accept, lacking
from keyd.services.evidence import role_or_new, trusted
from keyd.services.joining import taken_names
from keyd.services.key_use import check_usable
from keyd.services.refusals import refusal
from keyd.services.repositories import existing
from keyd.services.rotation import receipts
from keyd.services.rotation.files import recorded_payload
from keyd.services.rotation.plans import still_open
from keyd.services.world import World


@dataclass(frozen=True)
class Uploaded:
    """What became of a signature; `replayed` if this key's was recorded before."""

    replayed: bool
    accepted: bool


def upload(
    world: World,
    principal: str,
    rotation: Rotation,
    *,
    receipt: bytes,
    keyid: str,
    signature: bytes,
) -> Uploaded:
    """Record a signature over the payload that the receipt stands for.

    Raises: InvalidRequest (SIGNATURE_INVALID, ENVELOPE_MALFORMED), NotAllowed (KEY_NOT_IN_ROLE),
    ApprovalRequired (a compromised key), PolicyViolation (RECEIPT_INVALID,
    DELEGATION_NAME_INVALID).
    """

    def work(tx: Transaction) -> Uploaded:
        still_open(tx, rotation.name)
        reservation = receipts.check(tx, rotation, receipt)
        payload = recorded_payload(tx, reservation.digest)
        fingerprint = _signer(tx, reservation, payload, keyid, signature)
        _check_not_stolen(tx, reservation, payload, fingerprint)
        made = {s.fingerprint for s in tx.signatures(reservation)}
        if fingerprint in made:
            return Uploaded(True, reservation.state is ReservationState.ACCEPTED)
        _check_names_free(tx, reservation, payload)
        complete = not lacking(tx, reservation, {*made, fingerprint})
        entry = _entry(
            *(world, principal, rotation, reservation),
            keyid=keyid,
            key_sha256=fingerprint,
            signature=signature.hex(),
            accepted=complete,
        )
        leaf = tx.append(entry)
        stored = StoredSignature(fingerprint, "", signature, leaf, entry.at)
        tx.put_signature(reservation, stored)
        return Uploaded(False, _advance(tx, reservation, payload, complete))

    return world.ledger.transact(work)


def _advance(tx: Transaction, reservation: Reservation, payload: Payload, complete: bool) -> bool:
    if reservation.state is ReservationState.ACCEPTED:
        return True
    if complete:
        accept(tx, reservation, payload)
    else:
        tx.put_reservation(replace(reservation, state=ReservationState.SIGNED), payload.raw)
    return complete


def _listed(reservation: Reservation, keyid: str) -> frozenset[str]:
    """The keys that the required lists mean by the id: two lists may mean different ones."""
    found = frozenset(
        keys.fingerprints[keyid] for keys in reservation.required if keyid in keys.fingerprints
    )
    if found:
        return found
    raise NotAllowed(
        "KEY_NOT_IN_ROLE",
        f"no list that {reservation.role} {reservation.version} needs has the key id {keyid}",
    )


def _signer(
    view: View, reservation: Reservation, payload: Payload, keyid: str, signature: bytes
) -> str:
    """Which of the listed keys made the signature; that one is counted, and no other."""
    listed = _listed(reservation, keyid)
    for objects in _key_objects(view, reservation, payload):
        pair = [(keyid, signature.hex())]
        made_by = public_keys.verify_metadata_signatures(payload.raw, pair, objects)
        if signers := made_by & listed:
            return min(signers)
    raise InvalidRequest(
        "SIGNATURE_INVALID",
        f"the signature under {keyid} does not verify over this payload: sign its exact bytes",
    )


def _key_objects(
    view: View, reservation: Reservation, payload: Payload
) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """Where the key ids of the required lists are spelt out."""
    sources = [payload] if reservation.role == "root" else []
    names = [keys.delegator.rpartition(":")[0] for keys in reservation.required]
    sources += [found for name in names if (found := trusted(view, reservation.repository, name))]
    for source in sources:
        signed = source.signed
        yield signed["keys"] if "keys" in signed else signed["delegations"]["keys"]


def _check_not_stolen(
    view: View, reservation: Reservation, payload: Payload, fingerprint: str
) -> None:
    """A thief's signature looks like its owner's: it counts where officers let the key sign."""
    key = view.key_by_fingerprint(fingerprint)
    if key is not None and key.state is KeyState.COMPROMISED:
        role = role_or_new(view, reservation.repository, reservation.role)
        check_usable(view, key, role, payload, reservation.required)


def _check_names_free(view: View, reservation: Reservation, payload: Payload) -> None:
    """Another role may delegate by now what this payload, once it is complete, would delegate."""
    repository = existing(view, reservation.repository)
    role = role_or_new(view, reservation.repository, reservation.role)
    if findings := taken_names(view, repository, role, payload):
        raise refusal(findings)


def _entry(
    world: World,
    principal: str,
    rotation: Rotation,
    reservation: Reservation,
    **fields: str | bool,
) -> Entry:
    return Entry(
        event=Event.SIGNATURE_UPLOADED,
        at=world.clock.now(),
        principal=principal,
        fields={
            "rotation": rotation.name,
            "repository": reservation.repository,
            "role": reservation.role,
            "epoch": reservation.epoch,
            "version": reservation.version,
            "payload_sha256": reservation.digest,
            **fields,
        },
    )
