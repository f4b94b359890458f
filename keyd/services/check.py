"""Judging without signing, and reading what is recorded. No token is touched here."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain.policy import Action, Caller
from keyd.domain.rules import Judgement, judge
from keyd.domain.rules.objections import wrong_key
from keyd.errors import Equivocation, Finding, KeydError, NotFound, Severity
from keyd.ports import View
from keyd.services.acceptance import lacking
from keyd.services.authorize import demand
from keyd.services.evidence import gather, mark, role_or_new
from keyd.services.joining import joining_findings
from keyd.services.key_use import check_usable
from keyd.services.prepare import bound_reservation
from keyd.services.reading import CHECK_METHOD, Reading, SigningRequest, read_request
from keyd.services.released import Released, released
from keyd.services.world import World


@dataclass(frozen=True)
class Checked:
    """What `sign` would say of a payload now; digests are SHA-256 in hex."""

    would_sign: bool
    findings: tuple[Finding, ...]
    repository: str
    role: str
    next_version: int
    change: tuple[str, ...]
    change_digest: str
    digest: str


@dataclass(frozen=True)
class Recorded:
    """A recorded version: its payload and every signature over it."""

    payload: bytes
    signatures: tuple[Released, ...]


def check(world: World, caller: Caller, request: SigningRequest) -> Checked:
    """Judge a payload with all findings; nothing is reserved and no token is asked.

    Raises: InvalidRequest when the payload does not parse, NotAllowed, NotFound.
    """
    return world.ledger.read(lambda view: _check(world, view, caller, request))


def _check(world: World, view: View, caller: Caller, request: SigningRequest) -> Checked:
    reading = read_request(world, view, caller, request, CHECK_METHOD)
    fingerprint = reading.key.fingerprint if reading.key else ""
    evidence = gather(view, reading.repository, reading.role, reading.payload, fingerprint)
    judgement = judge(reading.question(world), evidence)
    findings = (
        *_bound_findings(view, reading, judgement),
        *_key_findings(view, reading, judgement),
    )
    refusing = any(finding.severity is Severity.REFUSE for finding in findings)
    change = judgement.change
    return Checked(
        would_sign=not refusing and world.ledger.refusal() is None,
        findings=findings,
        repository=reading.repository.name,
        role=reading.role.name,
        next_version=mark(view, reading.role) + 1,
        change=change.lines if change else (),
        change_digest=change.digest if change else "",
        digest=reading.payload.digest,
    )


def _bound_findings(view: View, reading: Reading, judgement: Judgement) -> tuple[Finding, ...]:
    """The rules' findings; for a version that is bound already, what that means instead."""
    try:
        bound = bound_reservation(view, reading)
    except Equivocation as refused:
        return (*refused.findings, *(f for f in judgement.findings if f.rule != "A7"))
    if bound is None:
        return judgement.findings
    return (*joining_findings(view, reading), *judgement.warnings)


def _key_findings(view: View, reading: Reading, judgement: Judgement) -> tuple[Finding, ...]:
    if reading.key is None:
        return ()
    try:
        check_usable(view, reading.key, reading.role, reading.payload, judgement.required)
    except KeydError as refused:
        return (wrong_key("A2", refused.reason, refused.message),)
    return ()


def recorded(world: World, caller: Caller, repository: str, role: str, version: int) -> Recorded:
    """Everything recorded for one version of a role in its present epoch. Raises: NotFound."""
    demand(world, caller, Action("SigningService.GetSignature", repository, role))
    return world.ledger.read(lambda view: _recorded(view, repository, role, version))


def _recorded(view: View, repository: str, role: str, version: int) -> Recorded:
    epoch = role_or_new(view, repository, role).epoch
    found = view.reservation(repository, role, epoch, version)
    if found is None:
        raise NotFound(
            "VERSION_NOT_RECORDED", f"nothing is recorded for version {version} of {role}"
        )
    signatures = view.signatures(found)
    missing = lacking(view, found, [s.fingerprint for s in signatures])
    return Recorded(
        payload=view.payload(found.digest),
        signatures=tuple(
            released(view.key(s.key) if s.key else None, found, s, missing=missing, replayed=True)
            for s in signatures
        ),
    )
