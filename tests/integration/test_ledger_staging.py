"""Rows that wait for the end of a group are seen by it and leave with the piece that put them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.audit import Entry, Event
from keyd.domain.records import (
    Intent,
    IntentKind,
    IntentState,
    RequestRecord,
    Role,
    VersionRecord,
)
from keyd.domain.trust import FileFacts
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.verification.verify import verify_ledger
from keyd.ports import Transaction
from tests.fakes import TestClock
from tests.worlds import active_author, existing_repository, open_world

INTENT = Intent(1001, IntentKind.SIGN, "key", "subject", "0" * 64, IntentState.OPEN)
REQUEST = RequestRecord("unix:me", "id", "1" * 64, "subject", TestClock().now())


class Refused(Exception):
    """Ends a piece."""


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    world = open_world(tmp_path)
    active_author(world)
    assert isinstance(world.ledger, SqliteLedger)
    return world.ledger


def version(ledger: SqliteLedger) -> VersionRecord:
    found = ledger.read(lambda view: view.versions("demo", [("targets", 1)]))
    return found["targets", 1]


def put_all(tx: Transaction) -> None:
    tx.put_intent(INTENT)
    tx.put_request(REQUEST)


def test_a_transaction_reads_what_it_put(ledger: SqliteLedger) -> None:
    facts = FileFacts(7, {"sha256": "a" * 64})
    known = version(ledger)

    def work(tx: Transaction) -> None:
        put_all(tx)
        tx.put_version(replace(known, file=facts))
        assert INTENT in tx.open_intents()
        assert tx.request("unix:me", "id") == REQUEST
        assert tx.versions("demo", [("targets", 1)])["targets", 1].file == facts
        tx.put_intent(replace(INTENT, state=IntentState.COMPLETED))
        assert INTENT not in tx.open_intents()

    ledger.transact(work)
    assert INTENT not in ledger.read(lambda view: view.open_intents())
    assert ledger.read(lambda view: view.request("unix:me", "id")) == REQUEST
    assert version(ledger) == replace(known, file=facts)


def test_a_piece_that_read_and_was_refused_takes_only_its_own_rows(ledger: SqliteLedger) -> None:
    mine = replace(REQUEST, request_id="mine")

    def refused(tx: Transaction) -> None:
        tx.put_intent(replace(INTENT, leaf=1002))
        tx.put_request(mine)
        assert len(tx.open_intents()) == 2
        assert tx.request("unix:me", "mine") == mine
        raise Refused

    outcomes = ledger.transact_each([put_all, refused, lambda _: None])
    assert isinstance(outcomes[1], Refused)
    assert ledger.read(lambda view: view.open_intents()) == (INTENT,)
    assert ledger.read(lambda view: view.request("unix:me", "id")) == REQUEST
    assert ledger.read(lambda view: view.request("unix:me", "mine")) is None


def test_a_repository_that_changes_in_a_group_is_seen_changed_by_it(tmp_path: Path) -> None:
    world = open_world(tmp_path)
    active_author(world)
    before = existing_repository(world, "demo").revision

    def touch(tx: Transaction) -> int:
        role = tx.role("demo", "targets")
        assert role is not None
        tx.put_role(role)
        found = tx.repository("demo")
        assert found is not None
        return found.revision

    assert world.ledger.transact_each([touch, touch]) == [before + 1, before + 1]
    assert existing_repository(world, "demo").revision == before + 1


def test_roles_read_in_a_group_are_those_that_its_pieces_left(tmp_path: Path) -> None:
    world = open_world(tmp_path)
    active_author(world)

    def mark(tx: Transaction) -> int:
        role = tx.role("demo", "targets")
        assert role is not None
        return role.high_water

    def raised(tx: Transaction) -> int:
        role = tx.role("demo", "targets")
        assert role is not None
        tx.put_role(replace(role, high_water=role.high_water + 1))
        return mark(tx)

    def refused(tx: Transaction) -> int:
        raised(tx)
        raise Refused

    outcomes = world.ledger.transact_each([mark, raised, refused, mark])
    assert [o for o in outcomes if not isinstance(o, Exception)] == [1, 2, 2]


def test_a_row_that_contradicts_the_ledger_costs_its_own_piece_only(tmp_path: Path) -> None:
    """SQLite objects when the group ends; then each piece is committed alone."""
    world = open_world(tmp_path)
    active_author(world)
    size = world.ledger.read(lambda view: view.log_size())

    def contradicting(tx: Transaction) -> None:
        tx.put_role(Role("unknown", "targets"))

    outcomes = world.ledger.transact_each([put_all, contradicting, contradicting, add_entry])
    assert outcomes[0] is None
    assert [getattr(o, "reason", "") for o in outcomes[1:3]] == ["LEDGER_INVARIANT"] * 2
    assert outcomes[3] == size
    assert world.ledger.read(lambda view: view.open_intents()) == (INTENT,)
    assert world.ledger.read(lambda view: view.log_size()) == size + 1
    world.ledger.close()
    report = verify_ledger(tmp_path / "ledger", anchor=tmp_path / "anchor")
    # All but the intent of nothing, which this test made up.
    assert all("1001" in str(flaw) for flaw in report.flaws), report.flaws


def test_a_piece_that_reads_meets_the_contradiction_of_an_earlier_one(tmp_path: Path) -> None:
    world = open_world(tmp_path)
    active_author(world)

    def contradicting(tx: Transaction) -> None:
        tx.put_role(Role("unknown", "targets"))

    def reading(tx: Transaction) -> int:
        return len(tx.roles("demo"))

    first, second = world.ledger.transact_each([contradicting, reading])
    assert getattr(first, "reason", "") == "LEDGER_INVARIANT"
    assert second == 4


def add_entry(tx: Transaction) -> int:
    return tx.append(Entry(Event.DENIED, TestClock().now(), "unix:me"))
