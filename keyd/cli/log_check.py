"""Recomputing an audit log from the raw bytes of its entries; what the daemon says is compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from keyd.domain import checkpoint as notes
from keyd.domain.merkle import Frontier, leaf_hash
from keyd.errors import InvalidRequest, StateCorrupt
from keyd_client.messages import LogEntry


@dataclass(frozen=True)
class CheckedLog:
    """What was recomputed; `extends` is the size of the earlier checkpoint, 0 if none was given."""

    origin: str
    size: int
    root: bytes
    extends: int


def check_log(
    entries: Iterable[LogEntry], note: str, verifier_key: str, earlier: str = ""
) -> CheckedLog:
    """Check that `entries` are the whole log that the signed `note` speaks of.

    `earlier` is a note kept from before, or "": the log must begin with what it covers. Raises:
    StateCorrupt (LOG_…) naming the first entry that is wrong, InvalidRequest (CHECKPOINT_…).
    """
    key = notes.parse_verifier(verifier_key)
    head = notes.verify_checkpoint(note, [key])
    kept = notes.verify_checkpoint(earlier, [key]) if earlier else None
    tree = Frontier()
    for entry in entries:
        tree.append(_hash(tree.size, entry))
        if kept is not None and tree.size == kept.size and tree.root() != kept.root:
            raise StateCorrupt(
                "LOG_FORKED", f"the first {kept.size} entries are others than the checkpoint signed"
            )
    if tree.size != head.size:
        raise StateCorrupt(
            "LOG_INCOMPLETE", f"the checkpoint covers {head.size} entries, there are {tree.size}"
        )
    if tree.root() != head.root:
        raise StateCorrupt("LOG_ROOT_WRONG", "the entries do not have the root that was signed")
    if kept is not None and kept.size > head.size:
        raise StateCorrupt(
            "LOG_SHORTENED", f"the log has {head.size} entries, it once had {kept.size}"
        )
    return CheckedLog(head.origin, head.size, head.root, kept.size if kept else 0)


def _hash(expected: int, entry: LogEntry) -> bytes:
    if entry.index != expected or _own_index(entry.data) != expected:
        raise StateCorrupt("LOG_GAP", f"entry {expected} is missing, or stands in another's place")
    found = leaf_hash(entry.data)
    if found != entry.leaf_hash:
        raise StateCorrupt("LOG_LEAF_WRONG", f"entry {expected} has been changed")
    return found


def _own_index(data: bytes) -> int:
    try:
        document = json.loads(data)
        return int(document["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest("LOG_ENTRY_UNREADABLE", "an entry is no JSON object") from error
