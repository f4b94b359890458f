"""What a verification found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

# Kept; the rest is only counted.
MAX_FLAWS = 1000

# Called now and then with what is done and how much there is.
Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Flaw:
    """Something that cannot be: `where` names the entry or record, `what` is in words."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Report:
    """The outcome: the ledger is sound if `flaws` is empty.

    `open_intents` are token calls under way, or cut off by a crash and settled at the next start.
    `unverified` are those of `signatures` whose payloads were left out on purpose, or whose keys
    are held elsewhere and not in the payloads.
    """

    ledger_id: str = ""
    origin: str = ""
    log_size: int = 0
    root: bytes = b""
    checkpoints: int = 0
    signatures: int = 0
    unverified: int = 0
    open_intents: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    flaw_count: int = 0

    @property
    def sound(self) -> bool:
        return self.flaw_count == 0

    def flaw(self, where: str, what: str) -> None:
        """Note something that cannot be."""
        self.flaw_count += 1
        if len(self.flaws) < MAX_FLAWS:
            self.flaws.append(Flaw(where, what))
