"""Metadata that was published elsewhere, or here: verified first, then remembered.

An import can only add: it raises marks, binds versions to their bytes, makes file lengths and
hashes known. What contradicts the ledger is refused, and the refusal is the alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyd.domain import metadata_file, public_keys
from keyd.domain.audit import Entry, Event
from keyd.domain.delegations import delegated_keys
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
from keyd.domain.trust import TOP_LEVEL, KeySet, Question, RepositoryView, type_of_role
from keyd.errors import Finding, KeydError, PolicyViolation
from keyd.ports import Transaction
from keyd.services.acceptance import accept, trust
from keyd.services.authorize import demand
from keyd.services.evidence import gather, role_or_new, rules_of
from keyd.services.repositories import claim, existing
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
    works = [_work(world, caller.principal, repository, file) for file in parsed]
    for file, outcome in zip(parsed, world.ledger.transact_each(works), strict=True):
        if isinstance(outcome, Imported):
            results[file.place] = outcome
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

    Raises: PolicyViolation (SIGNATURES_MISSING, ROOT_VERSION_GAP, ROLE_MISMATCH,
    VERSION_ALREADY_SIGNED_DIFFERENTLY, KEY_BELONGS_TO_ANOTHER_REPOSITORY).
    """
    recorded = role_or_new(tx, repository.name, role)
    _check_type(role, file)
    evidence = gather(tx, repository, recorded, file.payload)
    judgement = judge(Question(file.payload, world.clock.now()), evidence)
    signatures = _verified(file, _key_objects(evidence, file))
    _check_thresholds(role, file.version, judgement.required, frozenset(signatures))
    # Also for a version reserved here: signatures and acceptance may come from outside.
    leaf = tx.append(_entry(world, principal, recorded, file))
    reservation = _bind(world, tx, leaf=leaf, role=recorded, file=file, required=judgement.required)
    for fingerprint, signature in signatures.items():
        _add(tx, reservation, StoredSignature(fingerprint, "", signature, leaf, world.clock.now()))
    raised = file.version > recorded.high_water
    if reservation.state is not ReservationState.ACCEPTED:
        accept(tx, reservation, file.payload)
    trust(tx, _record(reservation, file), file.payload)
    return Imported(role, file.version, True, raised, judgement.warnings)


def _work(
    world: World, principal: str, repository: str, file: _File
) -> Callable[[Transaction], Imported]:
    def work(tx: Transaction) -> Imported:
        found = existing(tx, repository)
        return take_in(world, principal, tx, repository=found, role=file.role, file=file.content)

    return work


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


def _key_objects(evidence: RepositoryView, file: MetadataFile) -> Mapping[str, Mapping[str, Any]]:
    """The key objects that the file's signatures may refer to, by key id."""
    if evidence.role.name == "root":
        sources = [evidence.trusted_root, file.payload]
    elif evidence.role.name in TOP_LEVEL:
        sources = [evidence.trusted_root]
    else:
        sources = [payload for _, payload in evidence.role.delegators]
    objects: dict[str, Mapping[str, Any]] = {}
    for source in sources:
        if source is not None:
            signed = source.signed
            objects.update(signed["keys"] if "keys" in signed else signed["delegations"]["keys"])
    return objects


def _verified(file: MetadataFile, objects: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Valid signatures by fingerprint of the key that made them."""
    found: dict[str, bytes] = {}
    for pair in file.signatures:
        for fingerprint in public_keys.verify_metadata_signatures(
            file.payload.raw, [pair], objects
        ):
            found.setdefault(fingerprint, bytes.fromhex(pair[1]))
    return found


def _check_thresholds(
    role: str, version: int, required: Sequence[KeySet], signed: frozenset[str]
) -> None:
    lacking = [keys for keys in required if not keys.reached(signed)]
    if required and not lacking:
        return
    words = ", ".join(f"{keys.missing(signed)} listed by {keys.delegator}" for keys in lacking)
    raise PolicyViolation(
        "SIGNATURES_MISSING",
        f"{role} version {version} lacks valid signatures: {words or 'nobody delegates the role'}",
    )


def _bind(
    world: World,
    tx: Transaction,
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
    for delegation in delegated_keys(file.payload):
        use = delegation.role if role.name == "root" else "delegated"
        claim(tx, delegation.fingerprint, role.repository, use)
    reservation = Reservation(
        repository=role.repository,
        role=role.name,
        epoch=role.epoch,
        version=file.version,
        digest=file.payload.digest,
        required=required,
        state=ReservationState.RESERVED,
        leaf=leaf,
        created_at=world.clock.now(),
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


def _entry(world: World, principal: str, role: Role, file: MetadataFile) -> Entry:
    return Entry(
        event=Event.METADATA_IMPORTED,
        at=world.clock.now(),
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
