"""Rotations and their files against the entries that tell of them."""

from __future__ import annotations

import hashlib
from typing import Protocol

from keyd.domain.records_rotation import Rotation, RotationState
from keyd.ledger.codec import time_text
from keyd.ledger.verification.entries import Fields, differing
from keyd.ledger.verification.report import Report
from keyd.ledger.verification.rotation_facts import RotationFacts
from keyd.ledger.view import SqliteView


class Facts(Protocol):
    """The part of the log's facts that is about rotations."""

    rotations: dict[str, RotationFacts]
    voided: dict[int, Fields]


def check_rotations(view: SqliteView, facts: Facts, report: Report) -> None:
    """Every rotation is as the log tells it, and none is missing."""
    found = view.all_rotations()
    for rotation in found:
        told = facts.rotations.get(rotation.name)
        if told is None:
            report.flaw(f"rotation {rotation.name}", "no entry started it")
            continue
        _check_rotation(rotation, told, report)
        _check_files(view, rotation, told, facts.voided, report)
    for name in facts.rotations.keys() - {rotation.name for rotation in found}:
        report.flaw(f"rotation {name}", "an entry started it, but it is gone")


def _check_rotation(rotation: Rotation, told: RotationFacts, report: Report) -> None:
    where = f"rotation {rotation.name}"
    expected = {
        "repository": rotation.repository,
        "kind": rotation.kind,
        "plan_sha256": rotation.plan_digest,
        "principal": rotation.creator,
        "grace_s": rotation.grace_s,
        "time": time_text(rotation.created_at),
    }
    if wrong := differing(told.begun, expected):
        report.flaw(where, f"the entry that started it differs in {wrong}")
    if told.leaf != rotation.leaf:
        report.flaw(where, f"it was started by entry {told.leaf}")
    if hashlib.sha256(rotation.plan).hexdigest() != rotation.plan_digest:
        report.flaw(where, "its plan has other bytes")
    if rotation.state.value != told.state:
        report.flaw(where, f"it is {rotation.state.value}, but the log makes it {told.state}")
    published = time_text(rotation.published_at) if rotation.published_at else ""
    if published != told.published:
        report.flaw(where, "the log tells another time of publication")


def _check_files(
    view: SqliteView,
    rotation: Rotation,
    told: RotationFacts,
    voided: dict[int, Fields],
    report: Report,
) -> None:
    files = view.rotation_files(rotation.name)
    where = f"files of rotation {rotation.name}"
    if {file.step: file.leaf for file in files} != told.steps:
        report.flaw(where, "they are not those that the log bound")
    for file in files:
        reserved = view.reservation(file.repository, file.role, file.epoch, file.version)
        bound = reserved is not None and reserved.digest == file.digest
        # Officers may have freed a version that was never sealed; its log entry says so.
        freed = voided.get(file.leaf, {}).get("payload_sha256") == file.digest
        bound = bound or (freed and file.content is None)
        if not (bound and file.repository == rotation.repository):
            report.flaw(where, f"{file.role} {file.version} is bound to another payload")
    released = rotation.state not in (RotationState.RUNNING, RotationState.CANCELLED)
    if released and [file.described for file in files] != told.files:
        report.flaw(where, "they are not those that were rehearsed")
