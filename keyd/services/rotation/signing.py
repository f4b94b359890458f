"""One signing step of a rotation: reserved, signed by every key here, sealed as a file.

What is done already is found in the ledger, so that a step may be begun again after any crash: a
reservation is never made twice, a key never signs twice, a sealed file never changes. What has
expired or was overtaken meanwhile is left as it is, and the step takes the next version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from keyd.domain import metadata_file
from keyd.domain.keys import Key, KeyState
from keyd.domain.policy import Caller
from keyd.domain.records import Reservation, ReservationState
from keyd.domain.records_rotation import RotationFile
from keyd.domain.trust import TOP_LEVEL, KeySet
from keyd.errors import (
    ApprovalRequired,
    BackendUnavailable,
    DeadlineExceeded,
    Exhausted,
    NotAllowed,
    NotFound,
    PinRejected,
)
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.imports import take_in
from keyd.services.reading import SigningRequest
from keyd.services.repositories import existing
from keyd.services.rotation.bound import bound_file
from keyd.services.rotation.confirming import change_digest
from keyd.services.rotation.files import listed_in_order, new_file, recorded_payload, signed_by
from keyd.services.rotation.proposing import Trouble
from keyd.services.rotation.reserving import SigningStep, reserve_step
from keyd.services.sign import sign
from keyd.services.token_call import Deadline
from keyd.services.world import World

# What one key of several may suffer without stopping the others.
_ONE_KEYS_TROUBLE = (
    ApprovalRequired,
    BackendUnavailable,
    DeadlineExceeded,
    Exhausted,
    NotAllowed,
    NotFound,
    PinRejected,
)


@dataclass(frozen=True)
class Signed:
    """How far a step came; `file.content` is set once it is complete."""

    file: RotationFile
    troubles: tuple[Trouble, ...] = ()


def sign_step(world: World, caller: Caller, step: SigningStep, deadline: Deadline) -> Signed:
    """Take one step as far as the keys here can. Raises: what rules and ledger refuse."""
    now = world.clock.now()
    file = world.ledger.read(lambda view: bound_file(view, step.rotation, step.number, now))
    if file is None:
        file = reserve_step(world, caller.principal, step)
        failpoint(Failpoint.ROTATION_RESERVED)
    if file.content is not None:
        return Signed(file)
    troubles = tuple(_sign(world, caller, file, deadline))
    failpoint(Failpoint.ROTATION_SIGNED)
    sealed = world.ledger.transact(_seal(world, caller, file))
    return Signed(sealed, troubles)


def _sign(
    world: World, caller: Caller, file: RotationFile, deadline: Deadline
) -> Iterator[Trouble]:
    """Every key here that is listed and has not signed, while it counts for something."""
    payload, confirmed, keys = world.ledger.read(lambda view: _to_sign(view, file))
    for key in keys:
        request = SigningRequest(
            key=key.name,
            payload=payload,
            repository=file.repository,
            role=file.role,
            key_sha256=key.fingerprint,
            confirmed_change=confirmed,
        )
        if not world.ledger.read(partial(_counts, file=file, key=key)):
            continue
        try:
            sign(world, caller, request, timeout_s=deadline.remaining_s())
        except _ONE_KEYS_TROUBLE as trouble:
            yield Trouble(key.name, trouble)


def _to_sign(view: View, file: RotationFile) -> tuple[bytes, str, tuple[Key, ...]]:
    reservation = _reservation(view, file)
    payload = recorded_payload(view, file.digest)
    confirmed = change_digest(view, file.repository, file.role, payload)
    made = signed_by(view, reservation)
    listed = {
        fingerprint: None
        for keys in listed_in_order(view, reservation)
        for fingerprint in keys.fingerprints.values()
        if fingerprint not in made
    }
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in listed)
    # A compromised key is asked for only if the others were too few.
    keys = sorted(filter(None, held), key=lambda key: key.state is KeyState.COMPROMISED)
    return payload.raw, confirmed, tuple(keys)


def _counts(view: View, *, file: RotationFile, key: Key) -> bool:
    """All keys that stay or enter sign; those that leave, only while the old list lacks some."""
    reservation = _reservation(view, file)
    made = frozenset(signed_by(view, reservation))
    newest = reservation.required[-1]
    return key.fingerprint in newest.fingerprints.values() or any(
        key.fingerprint in keys.fingerprints.values() and keys.missing(made)
        for keys in reservation.required
    )


def _seal(
    world: World, caller: Caller, file: RotationFile
) -> Callable[[Transaction], RotationFile]:
    """Once the payload is accepted: its file, and its length and hashes for those that name it."""

    def work(tx: Transaction) -> RotationFile:
        reservation = _reservation(tx, file)
        if reservation.state is not ReservationState.ACCEPTED:
            return file
        content = new_file(tx, reservation)
        take_in(
            world,
            caller.principal,
            tx,
            repository=existing(tx, file.repository),
            role=file.role,
            file=metadata_file.read(content),
        )
        sealed = replace(file, content=content)
        tx.put_rotation_file(sealed)
        return sealed

    return work


def _reservation(view: View, file: RotationFile) -> Reservation:
    found = view.reservation(file.repository, file.role, file.epoch, file.version)
    if found is None or found.digest != file.digest:
        raise NotFound(
            "NOTHING_RESERVED", f"the reservation of {file.role} {file.version} was voided"
        )
    return found


def standing_words(view: View, file: RotationFile, name: Callable[[str], str]) -> tuple[str, ...]:
    """How many signatures each list has and whose are missing: "2 of 3 old, missing: …"."""
    reservation = _reservation(view, file)
    made = frozenset(signed_by(view, reservation))
    newest, *older = listed_in_order(view, reservation)
    several = bool(older) and reservation.role in TOP_LEVEL
    named = [(keys, "old" if several else keys.delegator) for keys in older]
    named.append((newest, "new" if several else newest.delegator))
    return tuple(_words(keys, which, made, name) for keys, which in named if keys.missing(made))


def _words(keys: KeySet, which: str, made: frozenset[str], name: Callable[[str], str]) -> str:
    listed = dict.fromkeys(keys.fingerprints.values())
    missing = ", ".join(name(fingerprint) for fingerprint in listed if fingerprint not in made)
    have = sum(fingerprint in made for fingerprint in listed)
    return f"{have} of {keys.threshold} {which}, still missing: {missing}"
