"""Reading log entries for what they claim. An entry is only as good as the tree it hangs in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from keyd.domain.trust import KeySet

Fields = Mapping[str, Any]


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"entries hold no number like {number}")


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


def differing(fields: Fields | None, expected: Mapping[str, object]) -> str:
    """The names of the members that are not as expected, "" if all are."""
    if fields is None:
        return "everything: it cannot be read"
    return ", ".join(name for name, value in expected.items() if fields.get(name) != value)
