"""Before anything is written: look for a reservation, apply the rules."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain.keys import Key
from keyd.domain.payload import Payload
from keyd.domain.policy import Caller
from keyd.domain.records import Reservation, ReservationState, Role
from keyd.domain.rules import judge
from keyd.domain.trust import Basis, KeySet
from keyd.errors import Equivocation, Finding, InvalidRequest, KeydError, NotAllowed
from keyd.ports import View
from keyd.services.acceptance import lacking
from keyd.services.evidence import gather
from keyd.services.joining import joining_findings
from keyd.services.key_use import check_usable
from keyd.services.quorum import approved_signing
from keyd.services.reading import Reading, SigningRequest, read_request
from keyd.services.refusals import refusal
from keyd.services.released import Released, released
from keyd.services.world import World


@dataclass(frozen=True)
class Prepared:
    """A payload that may be signed as far as the snapshot it was judged on tells.

    `reservation` is set when the version is already bound to these bytes and this key adds its
    signature; then the rules are not asked again and `basis` is None.
    """

    caller: Caller
    request: SigningRequest
    key: Key
    role: Role
    payload: Payload
    version: int
    required: tuple[KeySet, ...]
    warnings: tuple[Finding, ...]
    basis: Basis | None
    reservation: Reservation | None = None

    @property
    def subject(self) -> str:
        """Repository, role, epoch and version, for log and intents."""
        return f"{self.role.repository}/{self.role.name}/{self.role.epoch}/{self.version}"


def prepare(
    world: World, view: View, caller: Caller, request: SigningRequest, method: str
) -> Prepared | Released | KeydError:
    """Take a request to the point where it may reserve; or to its recorded answer, or refusal."""
    try:
        reading = read_request(world, view, caller, request, method)
        if reading.key is None:
            raise InvalidRequest("KEY_REQUIRED", "name the key that is to sign")
        _check_request_id(view, caller, request)
        bound = bound_reservation(view, reading)
        if bound is not None:
            return _join(view, caller, reading, reading.key, bound)
        return _judge(world, view, caller, reading, reading.key)
    except KeydError as refused:
        return refused


def bound_reservation(view: View, reading: Reading) -> Reservation | None:
    """The reservation of this version, if it is bound to these bytes.

    Raises: Equivocation if it is bound to others.
    """
    role = reading.role
    if reading.version > role.high_water:
        return None
    found = view.reservation(role.repository, role.name, role.epoch, reading.version)
    if found is None or found.state is ReservationState.VOIDED:
        return None
    if found.digest == reading.payload.digest:
        return found
    raise _equivocation(role, reading.version)


def _equivocation(role: Role, version: int) -> Equivocation:
    details = {}
    if role.name == "root":
        advice = "root versions cannot be skipped, ask a quorum to void the reservation"
    else:
        details = {"next_version": str(role.high_water + 1)}
        advice = f"continue with version {role.high_water + 1}"
    finding = Finding(
        rule="A7",
        reason="VERSION_ALREADY_SIGNED_DIFFERENTLY",
        pointer="/version",
        message=f"version {version} of {role.repository}/{role.name} is bound to another payload; "
        f"sign that one, or {advice}",
        details=details,
    )
    return Equivocation(
        finding.reason, finding.message, findings=[finding], details=finding.details
    )


def _check_request_id(view: View, caller: Caller, request: SigningRequest) -> None:
    if not request.request_id:
        return
    known = view.request(caller.principal, request.request_id)
    if known is not None and known.body_digest != request.body_digest():
        raise InvalidRequest(
            "REQUEST_ID_REUSED",
            "this request id was used for another request; choose a new one for new content",
        )


def _join(
    view: View, caller: Caller, reading: Reading, key: Key, reservation: Reservation
) -> Prepared | Released:
    """Return this key's recorded signature, or let it add its own under the recorded trust."""
    signatures = {s.fingerprint: s for s in view.signatures(reservation)}
    if key.fingerprint in signatures:
        mine = signatures[key.fingerprint]
        missing = lacking(view, reservation, signatures)
        return released(key, reservation, mine, missing=missing, replayed=True)
    role = reading.role
    if not any(key.fingerprint in s.fingerprints.values() for s in reservation.required):
        raise NotAllowed(
            "KEY_NOT_IN_ROLE",
            f"key {key.name!r} is not listed for {role.repository}/{role.name} in the state under "
            "which this version was reserved",
        )
    if findings := joining_findings(view, reading):
        raise refusal(findings)
    check_usable(view, key, role, reading.payload, reservation.required)
    return Prepared(
        caller=caller,
        request=reading.request,
        key=key,
        role=role,
        payload=reading.payload,
        version=reservation.version,
        required=reservation.required,
        warnings=(),
        basis=None,
        reservation=reservation,
    )


def _judge(world: World, view: View, caller: Caller, reading: Reading, key: Key) -> Prepared:
    evidence = gather(view, reading.repository, reading.role, reading.payload, key.fingerprint)
    judgement = judge(reading.question(world), evidence)
    if judgement.refusals:
        raise refusal(judgement.refusals)
    check_usable(view, key, reading.role, reading.payload, judgement.required)
    approved_signing(world, view, reading.role, reading.payload, key.name)
    return Prepared(
        caller=caller,
        request=reading.request,
        key=key,
        role=reading.role,
        payload=reading.payload,
        version=reading.version,
        required=judgement.required,
        warnings=judgement.warnings,
        basis=evidence.basis,
    )
