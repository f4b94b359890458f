"""No statement on the way of a signature walks through a table that grows.

A ledger of a million signatures must answer like one of a thousand. SQLite plans without
statistics, so an index that exists is not yet an index that is used.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyd.errors import BackendUnavailable
from keyd.ledger.database import DATABASE, connect_reader, connect_verifier, connect_writer
from keyd.ledger.verification.log_pass import LogFacts
from keyd.ledger.verification.report import Report
from keyd.ledger.verification.state_checks import check_versions
from tests.fakes import SoftwareToken
from tests.worlds import SIGNER, TIMEOUT_S, active_author, make_key, open_world, sign_many

GROWING = (
    *("intents", "leaves", "nodes", "opaque_signatures", "payloads", "requests"),
    *("reservations", "roles", "signatures", "versions"),
)
# One repository has thousands of roles: finding it alone is no look-up.
WALK = re.compile(rf"SCAN ({'|'.join(GROWING)}|role|held|known|r|s)\b|SEARCH .* \(repository=\?\)$")
# Their partial index holds what is open or voided now, and bins are few delegations.
SHORT = re.compile(
    r"USING (COVERING )?INDEX (open_intents|delegations_of_bins|one_open_rotation)\b"
)


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


def test_signing_looks_everything_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: set[str] = set()

    def traced(connect: Callable[[Path], sqlite3.Connection]) -> Callable[[Path], object]:
        def connect_traced(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(statements.add)
            return connection

        return connect_traced

    monkeypatch.setattr("keyd.ledger.writer.connect_writer", traced(connect_writer))
    monkeypatch.setattr("keyd.ledger.readers.connect_reader", traced(connect_reader))
    world = open_world(tmp_path)
    author = active_author(world)
    for key in ("one", "two"):
        author.keys[key] = make_key(world, key)
    author.sign("targets", "targets", author.delegating(2, one=(1, ["one"]), two=(1, ["two"])))
    requests = [
        author.request(role, role, author.targets(version), request_id=f"{role}-{version}")
        for version in (1, 2)
        for role in ("one", "two")
    ]
    for outcome in sign_many(world, SIGNER, requests, timeout_s=TIMEOUT_S):
        assert not isinstance(outcome, Exception)
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=2, one=2, two=2))
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.failures.append(BackendUnavailable("TOKEN_OFFLINE", "away"))
    with pytest.raises(BackendUnavailable):
        author.sign("timestamp", "timestamp", author.timestamp(2, snapshot=2))
    author.sign("timestamp", "timestamp", author.timestamp(3, snapshot=2))
    world.ledger.close()
    assert any("state <> 'ACCEPTED'" in each for each in statements)

    asked = [each for each in statements if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b", each)]
    assert len(asked) > 50
    with sqlite3.connect(tmp_path / "ledger" / DATABASE) as connection:
        walks = {
            (statement, step)
            for statement in asked
            for step in plan(connection, statement)
            if WALK.search(step) and not SHORT.search(step)
        }
    assert not walks


def test_verification_looks_up_what_it_asks_for_each_role(tmp_path: Path) -> None:
    """Roles times reservations are too many: a repository may have thousands of either."""
    world = open_world(tmp_path)
    active_author(world)
    world.ledger.close()
    statements: set[str] = set()
    with closing(connect_verifier(tmp_path / "ledger" / DATABASE)) as connection:
        connection.set_trace_callback(statements.add)
        check_versions(connection, LogFacts(bytearray(), bytearray()), Report())
        connection.set_trace_callback(None)
        (marks,) = (each for each in statements if "high_water" in each)
        steps = plan(connection, marks)
    assert "SCAN role" in steps
    asked = [step for step in steps if re.match(r"(SCAN|SEARCH) r\b", step)]
    used = [re.search(r"INDEX (\w+) \(repository=\? AND role=\? AND epoch=\?\)$", s) for s in asked]
    assert [each and each[1] for each in used] == ["one_payload_per_version", "voided_reservations"]
