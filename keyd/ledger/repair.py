"""Repair after a loss: explicit, offline, on the record, and it only ever raises marks.

A ledger that was restored from a backup cannot know what was signed since. Its anchor knows the
highest versions; whoever knows more (the published repository) can name them. All these versions
count as used from then on, though their payloads are lost here.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from keyd.domain.audit import Entry, Event
from keyd.domain.keys import Key
from keyd.domain.officers import Officer
from keyd.domain.records import LostVersions, ReservationState
from keyd.domain.records_quorum import ProposalState
from keyd.errors import InvalidRequest, StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger import anchor as anchors
from keyd.ledger.anchor import AnchorState
from keyd.ledger.create import ANCHOR_SETTING, check_apart
from keyd.ledger.database import DATABASE, connect_writer, translate
from keyd.ledger.gap import Refusal
from keyd.ledger.log import PendingLog, StoredLog
from keyd.ledger.marks import Mark
from keyd.ledger.opening import inspect_anchor, lock_ledger, prepare
from keyd.ledger.reached import current_state
from keyd.ledger.schema import migrations
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.view import SqliteView
from keyd.ledger.writer import load_frontier
from keyd.ports import Clock

_UNREADABLE = ("ANCHOR_MISSING", "ANCHOR_CORRUPT", "ANCHOR_FOREIGN")


@dataclass(frozen=True)
class Raised:
    """A mark that a repair raised: the versions above `before` count as used.

    `before` may be below the mark that the ledger had: a version that was bound to another payload
    than the anchor saw, or waits for signatures while entries are lost, is taken for used again.
    """

    mark: Mark
    before: int

    def __str__(self) -> str:
        m = self.mark
        digest = f" {m.digest}" if m.digest else ""
        return f"{m.repository}/{m.role} epoch {m.epoch}: {self.before} -> {m.version}{digest}"


@dataclass(frozen=True)
class Repaired:
    """What a repair found and did; `leaf` is its log entry, `origin` the log's name since.

    `cancelled` are the proposals that it ended. `keys` and `officers` are as this ledger knows
    them: what was changed since the backup has to be changed again.
    """

    refusal: str
    raised: tuple[Raised, ...]
    cancelled: tuple[str, ...]
    keys: tuple[Key, ...]
    officers: tuple[Officer, ...]
    leaf: int
    origin: str
    previous_origin: str


def repair(
    directory: Path,
    *,
    clock: Clock,
    principal: str,
    anchor: Path | None,
    raise_to: Mapping[tuple[str, str], int] | None = None,
    replace_anchor: bool = False,
) -> Repaired:
    """Raise marks to what the anchor saw and to `raise_to`, (repository, role) → version used.

    Needs the daemon stopped. `replace_anchor` accepts that the anchor is missing, damaged or
    another ledger's (or, with `anchor` None, given up), and makes a new one: then only `raise_to`
    tells what was lost.

    Open proposals are cancelled: an approval that was used up since the backup would be good for
    a second time. What else was decided since is not known here (see `Repaired`).

    A log that lost entries, or may have (`replace_anchor`), and goes on is another log: it gets a
    new origin, so that checkpoints signed before and after never contradict each other under one
    name.

    Raises: InvalidRequest (NOTHING_TO_REPAIR, MARK_NOT_RAISED), StateCorrupt (ANCHOR_MISSING,
    ANCHOR_CORRUPT, ANCHOR_FOREIGN without `replace_anchor`), and what `open_ledger` raises.
    """
    check_apart(directory, anchor)
    lock = lock_ledger(directory)
    anchor_lock = None
    try:
        prepare(directory / DATABASE, migrations())
        anchor_lock = anchors.lock(anchor) if anchor is not None else None
        connection = connect_writer(directory / DATABASE)
        try:
            job = _Repair(connection, clock, principal, anchor)
            return job.run(raise_to or {}, replace_anchor)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        if anchor_lock is not None:
            anchor_lock.release()
        lock.release()


class _Repair:
    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        principal: str,
        anchor: Path | None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._principal = principal
        self._anchor = anchor
        self._frontier = load_frontier(connection)
        self._view = SqliteView(connection, StoredLog(connection))

    def run(self, raise_to: Mapping[tuple[str, str], int], replace_anchor: bool) -> Repaired:
        refusal = inspect_anchor(self._connection, self._view, self._anchor)
        if refusal is not None and refusal.reason in _UNREADABLE and not replace_anchor:
            raise refusal.error()
        raised = tuple(self._raised(refusal, raise_to))
        if refusal is not None or replace_anchor:
            raised += tuple(self._waiting({_first(rise) for rise in raised}))
        if refusal is None and not raised:
            raise InvalidRequest(
                "NOTHING_TO_REPAIR", "the ledger is as new as its anchor, and no mark is to rise"
            )
        now = self._clock.now()
        # Who replaces the anchor says that entries may be lost that nothing here knows of.
        previous = self._view.identity().origin
        stays = refusal is None and not replace_anchor
        origins = previous, previous if stays else _next_origin(previous, now)
        repaired = self._record(refusal, raised, now, origins)
        failpoint(Failpoint.LEDGER_REPAIR_COMMITTED)
        if self._anchor is not None:
            state = current_state(self._connection)
            if replace_anchor or refusal is not None:
                anchors.set_aside(self._anchor, now)
            os.close(anchors.write(self._anchor, state))
        return repaired

    def _raised(
        self, refusal: Refusal | None, raise_to: Mapping[tuple[str, str], int]
    ) -> Iterator[Raised]:
        wanted, rebound = {}, set()
        for gap in () if refusal is None else refusal.gaps:
            if gap.ledger_version >= gap.mark.version:
                rebound.add(gap.mark._replace(digest=""))
                yield Raised(gap.mark, gap.mark.version - 1)
            else:
                wanted[gap.mark.repository, gap.mark.role] = gap.mark
        for (repository, role), version in raise_to.items():
            wanted[repository, role] = self._named(repository, role, version, wanted)
        for (repository, role), mark in sorted(wanted.items()):
            before = self._reached(repository, role, mark.epoch)
            if mark.version > before:
                below = mark._replace(version=before, digest="")
                yield Raised(mark, before - (below not in rebound and self._pending(below)))

    def _waiting(self, listed: set[Mark]) -> Iterator[Raised]:
        """What else waits for signatures: it may have been voided and published otherwise since.

        Roots cannot skip a version. One that waits is left as long as the anchor saw no other.
        """
        seen = {}
        anchor = _readable(self._anchor)
        if anchor is not None and anchor.ledger_id == self._view.identity().ledger_id:
            seen = {mark._replace(digest=""): mark.digest for mark in anchor.marks}
        for held in self._view.waiting():
            mark = Mark(held.repository, held.role, held.epoch, held.version, "")
            role = self._view.role(held.repository, held.role)
            ended = role is None or role.epoch != held.epoch
            kept = held.role == "root" and seen.get(mark, "") in ("", held.digest)
            if mark not in listed and not ended and not kept:
                yield Raised(mark, mark.version - 1)

    def _pending(self, mark: Mark) -> bool:
        """Whether the version below the lost ones waits for signatures.

        It may have been voided and used for another payload since: that is lost as well.
        """
        held = self._view.reservation(mark.repository, mark.role, mark.epoch, mark.version)
        return held is not None and held.state is not ReservationState.ACCEPTED

    def _named(
        self, repository: str, role: str, version: int, wanted: Mapping[tuple[str, str], Mark]
    ) -> Mark:
        """The mark for an explicit version. Raises: InvalidRequest when it raises nothing."""
        found = self._view.role(repository, role)
        seen = wanted.get((repository, role))
        epoch = max(found.epoch if found else 0, seen.epoch if seen else 0)
        floor = self._reached(repository, role, epoch)
        if seen is not None and seen.epoch == epoch:
            floor = max(floor, seen.version)
        if version <= floor:
            raise InvalidRequest(
                "MARK_NOT_RAISED",
                f"{repository}/{role} is known to have used version {floor}; name a higher one",
            )
        return Mark(repository, role, epoch, version, "")

    def _reached(self, repository: str, role: str, epoch: int) -> int:
        found = self._view.role(repository, role)
        marks = [found.high_water] if found is not None and found.epoch == epoch else []
        marks += [
            lost.last
            for lost in self._view.lost_versions(repository)
            if (lost.role, lost.epoch) == (role, epoch)
        ]
        return max(marks, default=0)

    def _record(
        self,
        refusal: Refusal | None,
        raised: tuple[Raised, ...],
        now: datetime,
        origins: tuple[str, str],
    ) -> Repaired:
        log = PendingLog(self._connection, self._frontier)
        transaction = SqliteTransaction(self._connection, log)
        self._connection.execute("BEGIN IMMEDIATE")
        leaf = transaction.append(self._entry(refusal, raised, now, origins))
        for rise in raised:
            _take_for_used(transaction, _lost(rise, leaf))
        cancelled = tuple(self._cancel(transaction, now))
        transaction.put_origin(origins[1])
        transaction.put_setting(ANCHOR_SETTING, "" if self._anchor is None else str(self._anchor))
        transaction.flush()
        self._connection.execute("COMMIT")
        return Repaired(
            refusal=str(refusal or ""),
            raised=raised,
            cancelled=cancelled,
            keys=self._view.keys(),
            officers=self._view.officers().officers,
            leaf=leaf,
            origin=origins[1],
            previous_origin=origins[0],
        )

    def _cancel(self, transaction: SqliteTransaction, now: datetime) -> Iterator[str]:
        """End every open proposal: it may have been executed, or its officers revoked, since."""
        for proposal in transaction.open_proposals():
            transaction.put_proposal(replace(proposal, state=ProposalState.CANCELLED))
            fields = {"proposal": proposal.name, "state": ProposalState.CANCELLED.value}
            transaction.append(Entry(Event.PROPOSAL_ENDED, now, self._principal, fields=fields))
            yield proposal.name

    def _entry(
        self,
        refusal: Refusal | None,
        raised: Iterable[Raised],
        now: datetime,
        origins: tuple[str, str],
    ) -> Entry:
        seen = _readable(self._anchor)
        return Entry(
            event=Event.LEDGER_REPAIRED,
            at=now,
            principal=self._principal,
            fields={
                "reason": "" if refusal is None else refusal.reason,
                "gaps": [] if refusal is None else [str(gap) for gap in refusal.gaps],
                "raised": [str(r) for r in raised],
                "anchor_size": seen.size if seen else 0,
                "anchor_root": seen.root.hex() if seen else "",
                "previous_size": self._frontier.size,
                "previous_root": self._frontier.root().hex(),
                "previous_origin": origins[0],
                "origin": origins[1],
            },
        )


def _lost(rise: Raised, leaf: int) -> LostVersions:
    m = rise.mark
    return LostVersions(m.repository, m.role, m.epoch, rise.before + 1, m.version, m.digest, leaf)


def _first(rise: Raised) -> Mark:
    """The lowest version that is taken for used."""
    return rise.mark._replace(version=rise.before + 1, digest="")


def _take_for_used(transaction: SqliteTransaction, lost: LostVersions) -> None:
    """No signature is added any more to what waits below or at the lost version."""
    transaction.put_lost(lost)
    held = transaction.reservation(lost.repository, lost.role, lost.epoch, lost.first)
    if held is not None and held.state is not ReservationState.ACCEPTED:
        voided = replace(held, state=ReservationState.VOIDED)
        transaction.put_reservation(voided, transaction.payload(held.digest))


def _readable(anchor: Path | None) -> AnchorState | None:
    """What the anchor last saw of the log; None if that cannot be read."""
    if anchor is None or not anchors.exists(anchor):
        return None
    try:
        return anchors.load(anchor)
    except StateCorrupt:
        return None


def _next_origin(origin: str, now: datetime) -> str:
    base = re.sub(r"/since-\d{8}T\d{6}Z$", "", origin)
    return f"{base}/since-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
