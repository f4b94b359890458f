"""What the log's entries tell of rotations."""

from __future__ import annotations

from dataclasses import dataclass, field

from keyd.domain.audit import Event
from keyd.domain.records_rotation import RotationState
from keyd.ledger.verification.entries import Fields

ROTATION_EVENTS = frozenset(
    {
        Event.ROTATION_STARTED,
        Event.VERSION_RESERVED,
        Event.ROTATION_REHEARSED,
        Event.ROTATION_PUBLISHED,
        Event.ROTATION_ENDED,
    }
)


@dataclass
class RotationFacts:
    """One rotation: its first entry, the state of its last one, its steps and files."""

    begun: Fields = field(default_factory=dict)
    leaf: int = -1
    state: str = RotationState.RUNNING.value
    published: str = ""
    # The entry that bound each step's newest version.
    steps: dict[int, int] = field(default_factory=dict)
    # "role version SHA-256" of the files that were rehearsed, in their order.
    files: list[str] = field(default_factory=list)


def note_rotation(known: dict[str, RotationFacts], index: int, event: str, fields: Fields) -> None:
    """Remember one entry. Raises: ValueError, TypeError for members that entries do not have."""
    name = str(fields.get("rotation"))
    facts = known.setdefault(name, RotationFacts())
    match event:
        case Event.ROTATION_STARTED:
            facts.begun, facts.leaf = fields, index
        case Event.VERSION_RESERVED:
            # A step that is bound anew takes back the release.
            facts.state = RotationState.RUNNING.value
            facts.steps[int(fields.get("step", -1))] = index
        case Event.ROTATION_REHEARSED:
            facts.state = RotationState.READY.value
            facts.files = list(fields.get("files", []))
        case Event.ROTATION_PUBLISHED:
            facts.state = RotationState.RETIRING.value
            facts.published = str(fields.get("time"))
        case Event.ROTATION_ENDED:
            facts.state = RotationState(str(fields.get("state"))).value
