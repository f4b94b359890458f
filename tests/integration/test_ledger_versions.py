"""Versions in the ledger: bound to one payload, only rising, with the signatures they got."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.audit import Event
from keyd.domain.records import (
    ReservationState,
    Role,
    StoredSignature,
    VersionRecord,
)
from keyd.domain.trust import FileFacts, KeySet
from keyd.errors import AlreadyExists, Equivocation, PolicyViolation
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.transaction import SqliteTransaction
from tests.ledgers import (
    NOW,
    REPOSITORY,
    Home,
    complete,
    digest,
    entry,
    furnished,
    named,
    payload,
    refused,
    reservation,
    reserve,
    role_of,
    sign,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = furnished(tmp_path)
    yield made
    made.close()


def test_a_version_is_bound_to_one_payload(ledger: SqliteLedger) -> None:
    sign(ledger, 1)
    error = refused(ledger, reserve(1, salt="other"))
    assert isinstance(error, Equivocation)
    assert error.reason == "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    assert refused(ledger, reserve(1, salt="other", epoch=0)).reason == error.reason


def test_a_reservation_raises_the_mark_and_only_above_it(ledger: SqliteLedger) -> None:
    ledger.transact(reserve(5))
    assert role_of(ledger).high_water == 5
    error = refused(ledger, reserve(4))
    assert isinstance(error, PolicyViolation)
    assert error.reason == "VERSION_NOT_INCREASING"


def test_what_was_signed_elsewhere_may_be_older(ledger: SqliteLedger) -> None:
    ledger.transact(reserve(5))
    old = reservation(4)

    def take_in(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.METADATA_IMPORTED, named(old)))
        tx.put_reservation(replace(old, leaf=leaf), payload(4))
        tx.put_reservation(replace(old, state=ReservationState.ACCEPTED), payload(4))

    ledger.transact(take_in)
    assert role_of(ledger).high_water == 5
    known = ledger.read(lambda view: view.versions(REPOSITORY, [("targets", 4), ("targets", 5)]))
    assert {v: r.accepted for (_, v), r in known.items()} == {4: True, 5: False}


def test_a_voided_version_can_be_bound_anew_and_is_remembered(ledger: SqliteLedger) -> None:
    made = ledger.transact(reserve(3))
    ledger.transact(
        lambda tx: tx.put_reservation(replace(made, state=ReservationState.VOIDED), payload(3))
    )
    assert ledger.read(lambda view: view.reservation(REPOSITORY, "targets", 0, 3)) is None
    again = ledger.transact(reserve(3, salt="new"))
    assert ledger.read(lambda view: view.reservation(REPOSITORY, "targets", 0, 3)) == again
    assert ledger.read(lambda view: view.payload(made.digest)) == payload(3)


def test_a_rebound_version_passes_the_anchor(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    made = ledger.transact(reserve(3))
    ledger.transact(
        lambda tx: tx.put_reservation(replace(made, state=ReservationState.VOIDED), payload(3))
    )
    ledger.transact(reserve(3, salt="new"))
    ledger.close()
    ledger = Home(tmp_path).open()
    assert ledger.refusal() is None
    ledger.close()


@pytest.mark.parametrize("state", [ReservationState.SIGNED, ReservationState.VOIDED])
def test_reservations_do_not_go_back(ledger: SqliteLedger, state: ReservationState) -> None:
    back = replace(sign(ledger, 1), state=state)
    error = refused(ledger, lambda tx: tx.put_reservation(back, payload(1)))
    assert error.reason == "LEDGER_INVARIANT"


def test_reservations_keep_all_their_fields(ledger: SqliteLedger) -> None:
    required = (
        KeySet("root:1", 2, {"k1": "a" * 64, "k2": "b" * 64}),
        KeySet("root:2", 1, {"k3": "c" * 64}),
    )
    wanted = replace(reservation(1, "root"), required=required)

    def work(tx: SqliteTransaction) -> int:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, named(wanted)))
        tx.put_reservation(replace(wanted, leaf=leaf), payload(1, "root"))
        return leaf

    leaf = ledger.transact(work)
    found = ledger.read(lambda view: view.reservation(REPOSITORY, "root", 0, 1))
    assert found == replace(wanted, leaf=leaf)


@pytest.mark.parametrize(
    "wrong",
    [{"version": 2}, {"role": "root"}, {"repository": "x"}, {"epoch": 1}, {"payload_sha256": "x"}],
)
def test_the_leaf_must_announce_the_reservation(
    ledger: SqliteLedger, wrong: dict[str, str | int]
) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, {**named(reservation(1)), **wrong}))
        tx.put_reservation(reservation(1, leaf=leaf), payload(1))

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"
    assert ledger.read(lambda view: view.role(REPOSITORY, "targets")) is None


def test_the_leaf_must_be_of_the_same_transaction(ledger: SqliteLedger) -> None:
    leaf = ledger.transact(
        lambda tx: tx.append(entry(Event.SIGNATURE_INTENDED, named(reservation(1))))
    )
    error = refused(ledger, lambda tx: tx.put_reservation(reservation(1, leaf=leaf), payload(1)))
    assert error.reason == "LEDGER_INVARIANT"


def test_a_payload_must_have_its_digest(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, named(reservation(1))))
        tx.put_reservation(reservation(1, leaf=leaf), payload(1) + b" ")

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"


def test_a_reservation_of_another_epoch_is_refused(ledger: SqliteLedger) -> None:
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", epoch=1)))
    for epoch in (0, 2):
        assert refused(ledger, reserve(1, epoch=epoch)).reason == "LEDGER_INVARIANT"
    ledger.transact(reserve(1, epoch=1))


def test_a_new_epoch_may_start_lower(ledger: SqliteLedger) -> None:
    sign(ledger, 9)
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", epoch=1)))
    ledger.transact(reserve(2, epoch=1))
    assert ledger.read(
        lambda v: list(v.versions(REPOSITORY, [("targets", 9), ("targets", 2)]))
    ) == [("targets", 2)]


def test_signatures_are_recorded_once_per_key(ledger: SqliteLedger) -> None:
    made = ledger.transact(reserve(1))
    stored = ledger.transact(complete(made))
    assert ledger.read(lambda view: view.signatures(made)) == (stored,)

    def second(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(made)))
        tx.put_signature(made, replace(stored, leaf=leaf, signature=b"other"))

    error = refused(ledger, second)
    assert isinstance(error, AlreadyExists)
    assert error.reason == "SIGNATURE_RECORDED"
    other = replace(stored, fingerprint="e" * 64, key="")

    def third(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(made)))
        tx.put_signature(made, replace(other, leaf=leaf))

    ledger.transact(third)
    assert len(ledger.read(lambda view: view.signatures(made))) == 2


def test_no_signature_without_reservation(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(reservation(1))))
        tx.put_signature(reservation(1), StoredSignature("f" * 64, "k", b"s", leaf, NOW))

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"


def test_versions_grow_and_never_change_their_payload(ledger: SqliteLedger) -> None:
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets")))
    bare = VersionRecord(REPOSITORY, "targets", 0, 4, "", accepted=False, imported=True)
    file = FileFacts(10, {"sha256": "e" * 64})
    full = replace(bare, digest=digest(payload(4)), accepted=True, imported=False, file=file)
    ledger.transact(lambda tx: tx.put_version(bare))
    ledger.transact(lambda tx: tx.put_version(full))
    ledger.transact(lambda tx: tx.put_version(bare))
    known = ledger.read(lambda view: view.versions(REPOSITORY, [("targets", 4), ("targets", 5)]))
    assert known == {("targets", 4): replace(full, imported=True)}
    assert role_of(ledger).high_water == 4
    other = replace(full, digest="f" * 64)
    assert isinstance(refused(ledger, lambda tx: tx.put_version(other)), Equivocation)
    assert isinstance(refused(ledger, reserve(4, salt="x")), Equivocation)
    ledger.transact(reserve(4))


def test_thousands_of_versions_are_found_at_once(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        for n in range(2000):
            tx.put_version(VersionRecord(REPOSITORY, f"bin-{n}", 0, n + 1, "a" * 64, True))

    ledger.transact(work)
    wanted = [(f"bin-{n}", n + 1) for n in range(2000)]
    found = ledger.read(lambda view: view.versions(REPOSITORY, [*wanted, ("bin-1", 1)]))
    assert set(found) == set(wanted)
