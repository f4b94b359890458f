"""How much time is left to renew metadata, given the people whom a renewal needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# What machines need, with everything that may go wrong once.
_MACHINES = timedelta(hours=1)
# Until the first person has read, decided and signed; each further one takes a day more.
_FIRST_PERSON = timedelta(days=3)
_FURTHER_PERSON = timedelta(days=1)
# Plans meet holidays and lost tokens.
_MARGIN = 2
# These are changed by people even where machines could sign them.
_LEAST = {"root": timedelta(days=30), "targets": timedelta(days=7)}


@dataclass(frozen=True)
class Runway:
    """When a role expires, and until when its renewal should have begun.

    `people` hold keys elsewhere that are needed for the threshold, `approvals` counts officers who
    must agree; `takes` is how long a renewal takes with both.
    """

    expires: datetime
    people: tuple[str, ...] = ()
    approvals: int = 0
    role: str = ""

    @property
    def takes(self) -> timedelta:
        """How long a renewal takes."""
        persons = len(self.people) + self.approvals
        if not persons:
            return _MACHINES
        return _MACHINES + _FIRST_PERSON + (persons - 1) * _FURTHER_PERSON

    @property
    def begin_by(self) -> datetime:
        """From then on it is urgent."""
        return self.expires - max(_MARGIN * self.takes, _LEAST.get(self.role, timedelta(0)))
