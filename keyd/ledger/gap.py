"""Whether the ledger has everything that its anchor saw."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain import merkle
from keyd.errors import StateCorrupt
from keyd.ledger.anchor import AnchorState
from keyd.ledger.log import StoredLog
from keyd.ledger.marks import Mark
from keyd.ledger.view import SqliteView


@dataclass(frozen=True)
class Gap:
    """A version that the anchor saw and the ledger does not know with that payload.

    `ledger_version` is the ledger's high-water mark in the mark's epoch (0: none at all).
    """

    mark: Mark
    ledger_version: int

    def __str__(self) -> str:
        where = f"{self.mark.repository}/{self.mark.role}"
        if self.ledger_version >= self.mark.version:
            return f"{where}: version {self.mark.version} has another payload than the anchor saw"
        return (
            f"{where}: the ledger is at version {self.ledger_version}, "
            f"the anchor at {self.mark.version} (epoch {self.mark.epoch})"
        )


@dataclass(frozen=True)
class Refusal:
    """Why nothing may be written, so that nothing can be signed; `gaps` are per role."""

    reason: str
    message: str
    gaps: tuple[Gap, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def error(self) -> StateCorrupt:
        """The error that every transaction gets."""
        gaps = {f"{g.mark.repository}/{g.mark.role}": str(g) for g in self.gaps}
        return StateCorrupt(self.reason, self.message, details=gaps)


def compare(state: AnchorState, view: SqliteView, log: StoredLog) -> Refusal | None:
    """What the ledger lacks of what its anchor saw; None: it is as new or newer."""
    identity = view.identity()
    if state.ledger_id != identity.ledger_id:
        return Refusal(
            "ANCHOR_FOREIGN",
            f"the anchor belongs to ledger {state.ledger_id}, this is {identity.ledger_id}; "
            "correct the configured paths",
        )
    gaps = tuple(gap for mark in state.marks if (gap := _gap(mark, view)) is not None)
    size = log.size()
    if size < state.size:
        lost = f"the log has {size} entries, the anchor saw {state.size}"
    elif merkle.root_at(log.subtree, state.size) != state.root:
        lost = f"the first {state.size} entries of the log are others than the anchor saw"
    elif gaps:
        lost = "high-water marks are below the anchor's"
    else:
        return None
    found = "; ".join([lost, *map(str, gaps)])
    return Refusal(
        "LEDGER_BEHIND_ANCHOR",
        f"this ledger is older than its anchor, so signing could repeat versions ({found}); "
        "bring the newest ledger back, or raise the marks with keyd ledger repair",
        gaps,
    )


def _gap(mark: Mark, view: SqliteView) -> Gap | None:
    role = view.role(mark.repository, mark.role)
    if role is not None and role.epoch > mark.epoch:
        return None
    reached = role.high_water if role is not None and role.epoch == mark.epoch else 0
    if reached < mark.version:
        return None if _repaired(mark, view) else Gap(mark, reached)
    digests = _payloads(mark, view)
    if mark.digest and digests and mark.digest not in digests:
        return Gap(mark, reached)
    return None


def _payloads(mark: Mark, view: SqliteView) -> frozenset[str]:
    """Every payload that the mark's version is known to have had, the voided ones too."""
    recorded = view.versions(mark.repository, [(mark.role, mark.version)])
    found = {record.digest for record in recorded.values()} | view.voided(mark)
    for lost in view.lost_versions(mark.repository):
        if (lost.role, lost.epoch) == (mark.role, mark.epoch):
            found.add(lost.digest_of(mark.version))
    return frozenset(found - {""})


def _repaired(mark: Mark, view: SqliteView) -> bool:
    """Whether a repair took the mark's version for used though its role is lost."""
    return any(
        lost.role == mark.role and lost.epoch == mark.epoch and lost.last >= mark.version
        for lost in view.lost_versions(mark.repository)
    )
