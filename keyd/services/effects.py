"""What an approved operation does, inside the transaction that uses its approval up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.keys import Key, KeyState, check_transition
from keyd.domain.operations import (
    AcceptPolicy,
    ChangeKeyState,
    ChangeOfficer,
    Operation,
    SetBaseRule,
    SetRoleRules,
    SucceedOfficer,
    UseCompromisedKey,
    VoidReservation,
)
from keyd.domain.records import Reservation, ReservationState
from keyd.domain.trust import KeySet
from keyd.errors import InvalidRequest, NotFound, PolicyViolation
from keyd.ports import Transaction, View
from keyd.services import officers
from keyd.services.evidence import role_or_new
from keyd.services.keys import named, put_state
from keyd.services.repositories import existing, put_rules
from keyd.services.world import World

ACCEPTED_POLICY = "accepted_policy"


def perform(world: World, tx: Transaction, operation: Operation, principal: str) -> None:
    """Do it. Raises: PolicyViolation, NotFound, InvalidRequest when the state forbids it by now."""
    match operation:
        case ChangeOfficer():
            officers.change(world, tx, operation, principal)
        case SucceedOfficer():
            officers.succeed(world, tx, operation, principal)
        case SetBaseRule():
            officers.put_base(world, tx, operation.threshold, principal)
        case SetRoleRules():
            repository = existing(tx, operation.repository)
            role = role_or_new(tx, repository.name, operation.role)
            put_rules(world, tx, role, operation.levels, principal=principal, comment="by quorum")
        case VoidReservation():
            _void(world, tx, operation, principal)
        case AcceptPolicy():
            tx.put_setting(ACCEPTED_POLICY, operation.revision)
        case ChangeKeyState():
            _change_key(world, tx, operation, principal)
        case UseCompromisedKey():
            _check_use(tx, operation)  # the executed proposal itself is what signing looks for
        case _:
            raise InvalidRequest(
                "NOT_EXECUTABLE",
                f"{operation.kind} is not executed by itself: make the call that it allows "
                "(keyd proposal execute NAME with --key KEY or --data FILE signs, keyd rotate "
                "start begins a rotation)",
            )


def voidable(view: View, operation: VoidReservation) -> Reservation:
    """The reservation that may be voided.

    Raises: NotFound, PolicyViolation (VOID_AT_THRESHOLD, VOID_THRESHOLD_ONE, VOID_TOKEN_AT_WORK,
    VOID_ELSEWHERE: `details["elsewhere"]` is the number that the operation has to name).
    """
    found = view.reservation(
        operation.repository, operation.role, operation.epoch, operation.version
    )
    if found is None or found.digest != operation.payload_sha256:
        raise NotFound(
            "RESERVATION_UNKNOWN",
            f"{operation.repository}/{operation.role} version {operation.version} is not bound to "
            "that payload",
        )
    signed = frozenset(each.fingerprint for each in view.signatures(found))
    if any(keys.threshold <= 1 for keys in found.required):
        raise PolicyViolation(
            "VOID_THRESHOLD_ONE",
            "one signature is enough for this payload, and nobody can prove that none left: it "
            "keeps its version for ever; use the next one",
        )
    if any(keys.reached(signed) for keys in found.required):
        raise PolicyViolation(
            "VOID_AT_THRESHOLD",
            "the payload has reached a threshold: clients may trust it; go on with it",
        )
    subject = f"{found.repository}/{found.role}/{found.epoch}/{found.version}"
    if any(intent.subject == subject for intent in view.open_intents()):
        raise PolicyViolation(
            "VOID_TOKEN_AT_WORK", "a token is being asked to sign this payload: wait for its answer"
        )
    if (unseen := _elsewhere(view, found.required, signed)) != operation.elsewhere:
        raise PolicyViolation(
            "VOID_ELSEWHERE",
            f"{unseen} listed keys that are held elsewhere or stolen may have signed this payload "
            "and reach a threshold; ask the holders, and propose the void with that number",
            details={"elsewhere": str(unseen)},
        )
    return found


def _elsewhere(view: View, required: Sequence[KeySet], signed: frozenset[str]) -> int:
    """How many keys could have brought the payload to a threshold unseen: not here, or stolen."""
    listed = {fingerprint for keys in required for fingerprint in keys.fingerprints.values()}
    held = ((fp, view.key_by_fingerprint(fp)) for fp in listed - signed)
    unseen = frozenset(fp for fp, key in held if key is None or key.state is KeyState.COMPROMISED)
    return len(unseen) if any(keys.reached(signed | unseen) for keys in required) else 0


def _void(world: World, tx: Transaction, operation: VoidReservation, principal: str) -> None:
    found = voidable(tx, operation)
    tx.put_reservation(
        replace(found, state=ReservationState.VOIDED), tx.payload(operation.payload_sha256)
    )
    entry: Fields = {
        "repository": found.repository,
        "role": found.role,
        "epoch": found.epoch,
        "version": found.version,
        "payload_sha256": found.digest,
        "elsewhere": operation.elsewhere,
        "intent": found.leaf,
    }
    tx.append(Entry(Event.RESERVATION_VOIDED, world.clock.now(), principal, fields=entry))


def _change_key(world: World, tx: Transaction, operation: ChangeKeyState, principal: str) -> None:
    key = changeable(tx, operation)
    put_state(world, tx, key, KeyState(operation.after), principal=principal, comment="by quorum")


def changeable(view: View, operation: ChangeKeyState) -> Key:
    """The key that the operation means, if its state may change so.

    Raises: NotFound, PolicyViolation (KEY_CHANGED, KEY_STATE_TRANSITION, KEY_STILL_LISTED).
    """
    key = named(view, operation.key)
    if (key.fingerprint, key.state.value) != (operation.key_sha256, operation.before):
        raise PolicyViolation(
            "KEY_CHANGED", f"key {key.name!r} is another, or {key.state.value}: propose it anew"
        )
    new = KeyState(operation.after)
    check_transition(key.state, new)
    if new is KeyState.DESTROYED:
        check_dispensable(view, key.fingerprint)
    return key


def _check_use(view: View, operation: UseCompromisedKey) -> None:
    key = named(view, operation.key)
    if (key.fingerprint, key.state) != (operation.key_sha256, KeyState.COMPROMISED):
        raise PolicyViolation(
            "KEY_CHANGED", f"key {key.name!r} is another, or {key.state.value}: propose it anew"
        )


def check_dispensable(view: View, fingerprint: str) -> None:
    """Refuse to destroy a key that trusted metadata still lists.

    Clients that are behind need its signatures, and the next root may. Raises: PolicyViolation.
    """
    listed = view.delegations_of_key(fingerprint)
    if listed:
        repository, delegation = listed[0]
        raise PolicyViolation(
            "KEY_STILL_LISTED",
            f"{repository} still gives {delegation.role} to this key: rotate it out first",
        )
