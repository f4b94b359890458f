"""Metadata that was published elsewhere, or here: verified first, then remembered.

An import can only add: it raises marks, binds versions to their bytes, makes file lengths and
hashes known. What contradicts the ledger is refused, and the refusal is the alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.domain import metadata_file
from keyd.domain.audit import Entry, Event
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.policy import Action, Caller
from keyd.domain.records import (
    Repository,
    Reservation,
    ReservationState,
    Role,
    StoredSignature,
    VersionRecord,
)
from keyd.domain.rules import judge
from keyd.domain.trust import TOP_LEVEL, KeySet, Question, type_of_role
from keyd.errors import Finding, KeydError, PolicyViolation
from keyd.ports import Transaction, View
from keyd.services.acceptance import accept, trust
from keyd.services.authorize import demand
from keyd.services.evidence import gather, gather_trust, role_or_new, rules_of
from keyd.services.repositories import claim_listed, existing
from keyd.services.votes import check_not_stolen, count_votes
from keyd.services.world import World

_ORDER = {name: rank for rank, name in enumerate(("root", "targets", "", "snapshot", "timestamp"))}


@dataclass(frozen=True)
class Imported:
    """What came of one file; `version` is 0 if it did not even parse."""

    role: str
    version: int
    recorded: bool
    raised_mark: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _File:
    place: int
    role: str
    content: MetadataFile


def import_metadata(
    world: World, caller: Caller, *, repository: str, files: Sequence[tuple[str, bytes]]
) -> tuple[Imported, ...]:
    """Take in (role, whole file) pairs in any order; one refused file stops no other.

    Raises: NotFound, NotAllowed.
    """
    demand(world, caller, Action("RepositoryService.ImportMetadata", repository))
    world.ledger.read(lambda view: existing(view, repository))
    results: dict[int, Imported] = {}
    parsed = []
    for place, (role, content) in enumerate(files):
        try:
            parsed.append(_File(place, role, _read(world, repository, role, content)))
        except KeydError as refused:
            results[place] = _refused(role, 0, refused)
    parsed.sort(key=_rank)
    warnings = [_warnings(world, repository, file) for file in parsed]
    works = [_work(world, caller.principal, repository, file) for file in parsed]
    outcomes = world.ledger.transact_each(works)
    for file, outcome, warned in zip(parsed, outcomes, warnings, strict=True):
        if isinstance(outcome, Imported):
            results[file.place] = replace(outcome, findings=warned)
        elif isinstance(outcome, KeydError):
            results[file.place] = _refused(file.role, file.content.version, outcome)
        else:
            raise outcome
    return tuple(results[place] for place in range(len(files)))


def take_in(
    world: World,
    principal: str,
    tx: Transaction,
    *,
    repository: Repository,
    role: str,
    file: MetadataFile,
) -> Imported:
    """Verify one file against the recorded state and record it.

    Raises: PolicyViolation (SIGNATURES_MISSING, SIGNED_BY_COMPROMISED_KEYS, ROOT_VERSION_GAP,
    ROLE_MISMATCH, VERSION_ALREADY_SIGNED_DIFFERENTLY, KEY_BELONGS_TO_ANOTHER_REPOSITORY,
    KEY_CONTENT_MISMATCH).
    """
    recorded = role_or_new(tx, repository.name, role)
    _check_type(role, file)
    if _is_known(tx, recorded, file) or _is_left_behind(tx, recorded, file):
        return Imported(role, file.version, True, False)
    question = Question(file.payload, world.clock.now())
    required, votes = count_votes(question, gather_trust(tx, repository, recorded), file)
    if file.version > recorded.trusted_version or recorded.trusts_older_epoch:
        check_not_stolen(tx, role, file.version, required, votes)
    # Also for a version reserved here: signatures and acceptance may come from outside.
    entry = _entry(question.now, principal, recorded, file)
    leaf = tx.append(entry)
    reservation = _bind(tx, entry.at, leaf=leaf, role=recorded, file=file, required=required)
    for fingerprint, signature in votes.items():
        _add(tx, reservation, StoredSignature(fingerprint, "", signature, leaf, entry.at))
    raised = file.version > recorded.high_water
    if reservation.state is not ReservationState.ACCEPTED:
        accept(tx, reservation, file.payload)
    trust(tx, _record(reservation, file), file.payload)
    return Imported(role, file.version, True, raised)


def warnings_about(
    world: World, view: View, repository: Repository, role: str, file: MetadataFile
) -> tuple[Finding, ...]:
    """What the rules would only warn of; what they refuse here has happened elsewhere."""
    evidence = gather(view, repository, role_or_new(view, repository.name, role), file.payload)
    return judge(Question(file.payload, world.clock.now()), evidence).warnings


def _is_known(tx: Transaction, role: Role, file: MetadataFile) -> bool:
    """Whether this very file was taken in before: then there is nothing to write or to announce."""
    known = tx.versions(role.repository, [(role.name, file.version)]).get((role.name, file.version))
    return (
        known is not None
        and known.accepted
        and known.digest == file.payload.digest
        and known.file == file.facts
    )


def _is_left_behind(tx: Transaction, role: Role, file: MetadataFile) -> bool:
    """Whether it is a version of an epoch that has ended: it must not come back in this one."""
    earlier = (
        tx.reservation(role.repository, role.name, epoch, file.version)
        for epoch in range(role.epoch)
    )
    return any(each is not None and each.digest == file.payload.digest for each in earlier)


def _work(
    world: World, principal: str, repository: str, file: _File
) -> Callable[[Transaction], Imported]:
    def work(tx: Transaction) -> Imported:
        found = existing(tx, repository)
        return take_in(world, principal, tx, repository=found, role=file.role, file=file.content)

    return work


def _warnings(world: World, repository: str, file: _File) -> tuple[Finding, ...]:
    """Asked before and apart from the transaction, in which everybody waits for large files."""

    def work(view: View) -> tuple[Finding, ...]:
        found = existing(view, repository)
        return warnings_about(world, view, found, file.role, file.content)

    return world.ledger.read(work)


def _read(world: World, repository: str, role: str, content: bytes) -> MetadataFile:
    rules = world.ledger.read(lambda view: rules_of(role_or_new(view, repository, role)))
    return metadata_file.read(content, extra_members=rules.extra_members)


def _rank(file: _File) -> tuple[int, int]:
    """Delegators before what they delegate, targets before the snapshot that lists them."""
    name = file.role if file.role in TOP_LEVEL else ""
    return _ORDER[name], file.content.version


def _refused(role: str, version: int, refused: KeydError) -> Imported:
    findings = refused.findings or (Finding("A1", refused.reason, "", refused.message),)
    return Imported(role, version, False, False, findings)


def _check_type(role: str, file: MetadataFile) -> None:
    found, wanted = file.payload.signed["_type"], type_of_role(role)
    if found != wanted:
        raise PolicyViolation(
            "ROLE_MISMATCH", f"the file is {found} metadata, and role {role!r} has {wanted}"
        )


def _bind(
    tx: Transaction,
    at: datetime,
    *,
    leaf: int,
    role: Role,
    file: MetadataFile,
    required: tuple[KeySet, ...],
) -> Reservation:
    """The reservation of this version for these bytes, made now if there is none."""
    found = tx.reservation(role.repository, role.name, role.epoch, file.version)
    if found is not None and found.state is not ReservationState.VOIDED:
        if found.digest != file.payload.digest:
            raise PolicyViolation(
                "VERSION_ALREADY_SIGNED_DIFFERENTLY",
                f"the ledger binds version {file.version} of {role.repository}/{role.name} to "
                "another payload than this published one: two payloads exist for one version",
            )
        return found
    _check_sequence(role, file)
    claim_listed(tx, role.repository, role.name, file.payload)
    reservation = Reservation(
        repository=role.repository,
        role=role.name,
        epoch=role.epoch,
        version=file.version,
        digest=file.payload.digest,
        required=required,
        state=ReservationState.RESERVED,
        leaf=leaf,
        created_at=at,
    )
    tx.put_reservation(reservation, file.payload.raw)
    return reservation


def _check_sequence(role: Role, file: MetadataFile) -> None:
    if role.name == "root" and role.trusted_version not in (0, file.version - 1):
        raise PolicyViolation(
            "ROOT_VERSION_GAP",
            f"root {file.version} does not follow the trusted root {role.trusted_version}; import "
            "every root in between",
        )


def _add(tx: Transaction, reservation: Reservation, made: StoredSignature) -> None:
    if all(known.fingerprint != made.fingerprint for known in tx.signatures(reservation)):
        tx.put_signature(reservation, made)


def _record(reservation: Reservation, file: MetadataFile) -> VersionRecord:
    return VersionRecord(
        repository=reservation.repository,
        role=reservation.role,
        epoch=reservation.epoch,
        version=reservation.version,
        digest=reservation.digest,
        accepted=True,
        imported=True,
        file=file.facts,
    )


def _entry(at: datetime, principal: str, role: Role, file: MetadataFile) -> Entry:
    return Entry(
        event=Event.METADATA_IMPORTED,
        at=at,
        principal=principal,
        fields={
            "repository": role.repository,
            "role": role.name,
            "epoch": role.epoch,
            "version": file.version,
            "payload_sha256": file.payload.digest,
            "file_sha256": file.facts.hashes["sha256"],
        },
    )
