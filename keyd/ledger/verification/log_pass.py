"""The first pass: every entry from first to last, the tree over them, the checkpoints.

Remembers, in a few bytes per entry, what each entry owes: the record that must exist because of it.
The second pass pays these debts off record by record; what remains names a record that is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from keyd.domain import merkle
from keyd.domain.audit import Event
from keyd.domain.checkpoint import LogKey, verify_checkpoint
from keyd.domain.records import IntentState, LostVersions
from keyd.errors import InvalidRequest
from keyd.ledger.verification.entries import Fields, lost_versions, parse, place_of
from keyd.ledger.verification.officer_story import concerns_officers
from keyd.ledger.verification.report import Progress, Report
from keyd.ledger.verification.rotation_facts import ROTATION_EVENTS, RotationFacts, note_rotation

_PROGRESS_EVERY = 10_000


class Owed(IntEnum):
    """Records that an entry announces, one bit each."""

    RESERVATION = 1
    INTENT = 2
    SIGNATURE = 4
    OPAQUE = 8


_NAMES = {
    Owed.RESERVATION: "reservation",
    Owed.INTENT: "announced token call",
    Owed.SIGNATURE: "signature",
    Owed.OPAQUE: "opaque signature",
}
_STATES = [*IntentState]
_ANNOUNCEMENTS = frozenset(
    {
        Event.KEY_INTENDED,
        Event.KEY_DELETION_INTENDED,
        Event.SIGNATURE_INTENDED,
        Event.OPAQUE_INTENDED,
    }
)
# What an entry that reports success leaves behind.
_KEEPS: dict[str, Owed] = {
    Event.SIGNATURE_COMPLETED: Owed.SIGNATURE,
    Event.OPAQUE_COMPLETED: Owed.OPAQUE,
    Event.SIGNATURE_UPLOADED: Owed.SIGNATURE,
}
_FAILURES = (Event.SIGNATURE_FAILED, Event.OPAQUE_FAILED, Event.INTENT_CLOSED)
_ENDS = frozenset({*_KEEPS, Event.KEY_DELETED, *_FAILURES})


@dataclass
class LogFacts:
    """What the entries claim, for the second pass."""

    owed: bytearray
    settled: bytearray
    genesis: Fields = field(default_factory=dict)
    origin: str = ""
    # The log's names, each with the entry that gave it.
    origins: list[tuple[int, str]] = field(default_factory=list)
    keys: dict[str, Fields] = field(default_factory=dict)
    key_states: dict[str, str] = field(default_factory=dict)
    repositories: dict[str, Fields] = field(default_factory=dict)
    imported: dict[tuple[str, str, int, int], Fields] = field(default_factory=dict)
    lost: list[LostVersions] = field(default_factory=list)
    rotations: dict[str, RotationFacts] = field(default_factory=dict)
    # The mark that each role's present epoch began with, by (repository, role).
    lowered: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    voided: dict[int, Fields] = field(default_factory=dict)
    officers: dict[int, Fields] = field(default_factory=dict)

    def name(self, index: int, origin: str) -> None:
        """Entry `index` gives the log a name."""
        self.origin = origin
        self.origins.append((index, origin))

    def origin_at(self, size: int) -> str:
        """The name that the log had when it had so many entries."""
        return next((name for index, name in reversed(self.origins) if index < size), "")

    def pay(self, leaf: int, debt: Owed) -> bool:
        """A record that entry `leaf` announced was found; False if it was not owed (any more)."""
        if not 0 <= leaf < len(self.owed) or not self.owed[leaf] & debt:
            return False
        self.owed[leaf] &= ~debt
        return True

    def outcome(self, leaf: int) -> IntentState:
        """How the log says that the token call announced by entry `leaf` ended."""
        code = self.settled[leaf] if 0 <= leaf < len(self.settled) else 0
        return _STATES[code - 1] if code else IntentState.OPEN


def read_log(
    connection: sqlite3.Connection, keys: list[LogKey], report: Report, progress: Progress
) -> LogFacts:
    """Hash everything again and compare it with what is stored."""
    size = connection.execute("SELECT count(*) FROM leaves").fetchone()[0]
    facts = LogFacts(owed=bytearray(size), settled=bytearray(size))
    frontier = merkle.Frontier()
    nodes = iter(connection.execute("SELECT position, hash FROM nodes ORDER BY position"))
    checkpoints = _Checkpoints(connection, keys, report)
    made = 0
    rows = connection.execute("SELECT position, data, hash FROM leaves ORDER BY position")
    for index, (position, data, stored) in enumerate(rows):
        if position != index:
            report.flaw(f"entry {index}", "it is missing from the log")
            break
        computed = merkle.leaf_hash(data)
        if computed != stored:
            report.flaw(f"entry {index}", "its content is not what was hashed")
        completed = frontier.append(computed)
        made = _compare_nodes(nodes, completed, made, report)
        _note(facts, index, parse(data), report)
        checkpoints.compare(frontier, facts)
        if index % _PROGRESS_EVERY == 0:
            progress(index, size)
    if next(nodes, None) is not None:
        report.flaw("tree", "there are more interior hashes than entries")
    checkpoints.finish(frontier.size)
    report.log_size, report.root, report.origin = frontier.size, frontier.root(), facts.origin
    return facts


def _compare_nodes(
    nodes: Iterator[tuple[int, bytes]], completed: list[bytes], made: int, report: Report
) -> int:
    for node in completed:
        if next(nodes, None) != (made, node):
            report.flaw(f"interior hash {made}", "it is not what the entries below it hash to")
        made += 1
    return made


class _Checkpoints:
    """The stored checkpoints, compared while the tree grows."""

    def __init__(self, connection: sqlite3.Connection, keys: list[LogKey], report: Report) -> None:
        self._rows = iter(
            connection.execute("SELECT size, root, note FROM checkpoints ORDER BY size")
        )
        self._next = next(self._rows, None)
        self._keys = keys
        self._report = report

    def compare(self, frontier: merkle.Frontier, facts: LogFacts) -> None:
        if self._next is None or self._next[0] != frontier.size:
            return
        size, root, note = self._next
        where = f"checkpoint {size}"
        if root != frontier.root():
            self._report.flaw(where, "its root is not that of the entries")
        try:
            keys = [LogKey(facts.origin, key.public_der) for key in self._keys]
            signed = verify_checkpoint(note, keys)
        except InvalidRequest as error:
            self._report.flaw(where, error.message)
        else:
            if (signed.origin, signed.size, signed.root) != (facts.origin, size, root):
                self._report.flaw(where, "its note tells of another log, size or root")
        self._report.checkpoints += 1
        self._next = next(self._rows, None)

    def finish(self, size: int) -> None:
        while self._next is not None:
            self._report.flaw(
                f"checkpoint {self._next[0]}", f"the log has only {size} entries: its tail is gone"
            )
            self._next = next(self._rows, None)


def _note(facts: LogFacts, index: int, fields: Fields | None, report: Report) -> None:
    """Remember what an entry claims and owes."""
    if fields is None:
        report.flaw(f"entry {index}", "it is no JSON object")
        return
    if fields.get("index") != index:
        report.flaw(f"entry {index}", f"it was written as entry {fields.get('index')}")
    event = fields.get("event")
    if (index == 0) != (event == Event.GENESIS):
        report.flaw(f"entry {index}", "a log begins with its genesis, once")
    if concerns_officers(fields):
        facts.officers[index] = fields
    try:
        _remember(facts, index, str(event), fields)
    except (TypeError, ValueError):
        report.flaw(f"entry {index}", "its members have other types than entries have")


def _remember(facts: LogFacts, index: int, event: str, fields: Fields) -> None:
    match event:
        case Event.GENESIS:
            facts.genesis = fields
            facts.name(index, str(fields.get("origin")))
        case Event.LEDGER_REPAIRED:
            facts.name(index, str(fields.get("origin")))
            facts.lost += lost_versions(index, fields)
        case Event.KEY_CREATED | Event.KEY_ADOPTED:
            facts.keys[str(fields.get("key"))] = fields
        case Event.KEY_STATE_CHANGED:
            facts.key_states[str(fields.get("key"))] = str(fields.get("to"))
        case Event.REPOSITORY_BOOTSTRAPPED | Event.REPOSITORY_REGISTERED:
            facts.repositories[str(fields.get("repository"))] = fields
        case Event.METADATA_IMPORTED:
            facts.imported[_place(fields)] = fields
        case Event.RESERVATION_VOIDED:
            facts.voided[int(fields.get("intent", -1))] = fields
        case _ if event in _ANNOUNCEMENTS:
            _note_announcement(facts, index, event, fields)
        case _ if event in _ENDS:
            _note_end(facts, index, event, fields)
        case _:
            _note_rotation(facts, index, event, fields)


def _note_rotation(facts: LogFacts, index: int, event: str, fields: Fields) -> None:
    if event == Event.VERSIONS_LOWERED:
        place = str(fields.get("repository")), str(fields.get("role"))
        facts.lowered[place] = int(fields["epoch"]), int(fields["mark"])
    elif event == Event.VERSION_RESERVED:
        facts.owed[index] = Owed.RESERVATION
    if event in ROTATION_EVENTS:
        note_rotation(facts.rotations, index, event, fields)


def _place(fields: Fields) -> tuple[str, str, int, int]:
    return (
        str(fields.get("repository")),
        str(fields.get("role")),
        int(fields.get("epoch", -1)),
        int(fields.get("version", -1)),
    )


def _note_announcement(facts: LogFacts, index: int, event: str, fields: Fields) -> None:
    facts.owed[index] = Owed.INTENT
    if event == Event.SIGNATURE_INTENDED and not fields.get("added"):
        facts.owed[index] |= Owed.RESERVATION


def _note_end(facts: LogFacts, index: int, event: str, fields: Fields) -> None:
    intent = fields.get("intent")
    if event in _KEEPS and not fields.get("discarded"):
        facts.owed[index] = _KEEPS[event]
    if isinstance(intent, int) and 0 <= intent < len(facts.settled):
        facts.settled[intent] = 1 + _STATES.index(_end_state(event, fields))


def _end_state(event: str, fields: Fields) -> IntentState:
    if event in _KEEPS or event == Event.KEY_DELETED:
        return IntentState.COMPLETED
    outcome = fields.get("outcome")
    if outcome is not None:
        return IntentState(outcome)
    return IntentState.UNKNOWN if event == Event.OPAQUE_FAILED else IntentState.ABANDONED


def report_unpaid(connection: sqlite3.Connection, facts: LogFacts, report: Report) -> None:
    """Name the records that entries announced and nobody has."""
    for index, debt in enumerate(facts.owed):
        if not debt:
            continue
        row = connection.execute("SELECT data FROM leaves WHERE position = ?", (index,)).fetchone()
        fields = (parse(row[0]) if row else None) or {}
        missing = " and ".join(name for flag, name in _NAMES.items() if debt & flag)
        report.flaw(f"entry {index}", f"the {missing} for {place_of(fields)} is missing or altered")
