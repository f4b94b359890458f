"""`verify_ledger`: is this ledger what its log says, and the log what its checkpoints say?

Nothing stored is trusted: hashes are computed from the entries' bytes, digests from the payloads,
verdicts from the public keys. A hand that edits a record must edit the entry that announced it, and
with it the tree, every later checkpoint, and what others have seen of them (the anchor, a witness).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from keyd.domain import merkle
from keyd.domain.checkpoint import LogKey, parse_checkpoint, verify_checkpoint
from keyd.domain.keys import Content
from keyd.errors import InvalidRequest, KeydError, NotFound
from keyd.ledger import anchor as anchors
from keyd.ledger.database import DATABASE, connect_verifier
from keyd.ledger.directory import check_directory, check_file
from keyd.ledger.gap import compare
from keyd.ledger.log import StoredLog
from keyd.ledger.schema import check_version, migrations, schema_objections
from keyd.ledger.verification.log_pass import LogFacts, read_log, report_unpaid
from keyd.ledger.verification.officer_checks import check_officers
from keyd.ledger.verification.record_pass import check_intents, check_opaque, check_reservations
from keyd.ledger.verification.report import Progress, Report, silent
from keyd.ledger.verification.state_checks import check_state, check_versions
from keyd.ledger.view import SqliteView


def verify_ledger(
    directory: Path,
    *,
    anchor: Path | None = None,
    log_keys: Sequence[LogKey] = (),
    progress: Progress = silent,
) -> Report:
    """Recompute everything in the ledger of `directory` on one snapshot; the daemon may run.

    `anchor`: the anchor's directory, to compare with. `log_keys`: the keys that checkpoints must be
    signed by, known from elsewhere; without them those that the ledger registers. Reads in pages:
    memory does not grow with payloads, and by two bytes per entry.

    Raises: NotFound (LEDGER_MISSING), NotAllowed (STATE_PATH_UNSAFE), StateCorrupt (LEDGER_FOREIGN,
    LEDGER_SCHEMA_NEWER). All other damage is in the report.
    """
    path = directory / DATABASE
    if not path.exists():
        raise NotFound("LEDGER_MISSING", f"there is no ledger in {directory}")
    check_directory(directory)
    check_file(path)
    report = Report()
    try:
        with closing(connect_verifier(path)) as connection:
            _verify(connection, anchor, log_keys, report, progress)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        report.flaw("file", f"it is damaged: {error}")
    return report


def _verify(
    connection: sqlite3.Connection,
    anchor: Path | None,
    log_keys: Sequence[LogKey],
    report: Report,
    progress: Progress,
) -> None:
    version = check_version(connection, len(migrations()))
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute("BEGIN")
    for (problem,) in connection.execute("PRAGMA integrity_check(20)"):
        if problem != "ok":
            report.flaw("file", problem)
    for name in schema_objections(connection, migrations()[:version]):
        report.flaw(f"schema, {name}", "it is not as keyd makes it")
    for row in connection.execute("PRAGMA foreign_key_check"):
        report.flaw(f"table {row[0]}", f"row {row[1]} refers to nothing in {row[2]}")
    view = SqliteView(connection, StoredLog(connection))
    try:
        keys = list(log_keys) or _registered(view, report)
        facts = read_log(connection, keys, report, progress)
        _check_records(connection, view, facts, report, progress)
        if anchor is not None:
            _check_anchor(connection, anchor, keys, facts, report)
    except (KeydError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Whatever was put into the rows must end in a finding, not in a traceback.
        report.flaw("ledger", f"it cannot be read any further: {error}")


def _registered(view: SqliteView, report: Report) -> list[LogKey]:
    """The log keys that the ledger itself registers, under the log's present name."""
    origin = view.identity().origin
    found = []
    for key in view.keys():  # noqa: SIM118 - a view is no mapping
        if key.content is Content.LOG:
            try:
                found.append(LogKey(origin, key.public_der))
            except InvalidRequest as error:
                report.flaw(f"key {key.name}", error.message)
    return found


def _check_records(
    connection: sqlite3.Connection,
    view: SqliteView,
    facts: LogFacts,
    report: Report,
    progress: Progress,
) -> None:
    check_reservations(connection, facts, report, progress)
    check_intents(connection, facts, report)
    check_opaque(connection, facts, report)
    report_unpaid(connection, facts, report)
    check_versions(connection, facts, report)
    check_state(view, facts, report)
    check_officers(view, facts.officers, report)


def _check_anchor(
    connection: sqlite3.Connection,
    directory: Path,
    keys: Sequence[LogKey],
    facts: LogFacts,
    report: Report,
) -> None:
    try:
        state = anchors.load(directory)
    except (KeydError, OSError) as error:
        report.flaw("anchor", str(error))
        return
    log = StoredLog(connection)
    refusal = compare(state, SqliteView(connection, log), log)
    if refusal is not None:
        report.flaw("anchor", refusal.message)
    if not state.checkpoint:
        return
    try:
        # After a repair the newest checkpoint is one under the log's old name, until the next.
        origin = facts.origin_at(parse_checkpoint(state.checkpoint).size)
        note = verify_checkpoint(state.checkpoint, [LogKey(origin, k.public_der) for k in keys])
    except InvalidRequest as error:
        report.flaw("anchor", error.message)
        return
    if note.size > log.size() or merkle.root_at(log.subtree, note.size) != note.root:
        report.flaw("anchor", f"its checkpoint of size {note.size} is not of this log")
