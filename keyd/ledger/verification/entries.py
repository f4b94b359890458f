"""Reading log entries for what they claim. An entry is only as good as the tree it hangs in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from keyd.domain.records import LostVersions
from keyd.domain.trust import KeySet

Fields = Mapping[str, Any]


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"entries hold no number like {number}")


# A line of what a repair raised (`keyd.ledger.repair.Raised`); a role's name may hold anything.
_RAISED = re.compile(r"([^/]+)/(.+) epoch (\d+): (\d+) -> (\d+)(?: ([0-9a-f]{64}))?", re.DOTALL)

# Infinity is no integer, and what stands for it would be asked to become one.
_decode = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse).decode


def parse(data: bytes) -> Fields | None:
    """The members of an entry; None if it is no JSON object."""
    try:
        parsed = _decode(data.decode())
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def place_of(fields: Fields) -> str:
    """The version that an entry is about, in words."""
    repository, role = fields.get("repository"), fields.get("role")
    return f"{repository}/{role} epoch {fields.get('epoch')} version {fields.get('version')}"


def intended_root(fields: Fields) -> KeySet:
    """Who may sign the first root, as the entry that made a repository says.

    Raises: TypeError, ValueError.
    """
    keys = zip(fields.get("root_key_ids", ()), fields.get("root_keys_sha256", ()), strict=True)
    return KeySet("bootstrap", int(fields.get("threshold", 0)), dict(keys))


def lost_versions(index: int, fields: Fields) -> Iterator[LostVersions]:
    """The versions that a repair, by its entry, took for used. Raises: TypeError, ValueError."""
    for line in fields.get("raised", ()):
        found = _RAISED.fullmatch(line)
        if found is None:
            raise ValueError("it is no line that a repair writes")
        repository, role, epoch, before, last, digest = found.groups(default="")
        first = int(before) + 1
        yield LostVersions(repository, role, int(epoch), first, int(last), digest, index)


def differing(fields: Fields | None, expected: Mapping[str, object]) -> str:
    """The names of the members that are not as expected, "" if all are."""
    if fields is None:
        return "everything: it cannot be read"
    return ", ".join(name for name, value in expected.items() if fields.get(name) != value)
