"""What metadata changes about the version before it, in lines for the officer who approves it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from keyd.domain.difference import change, plain_text
from keyd.domain.payload import Payload

_NOTHING: Mapping[str, Any] = {}
_FILES = "targets"
_ROLES = "delegations"
_META = "meta"


def payload_changes(old: Payload | None, new: Payload) -> tuple[str, ...]:
    """One fact a line, printable ASCII, in a fixed order; every difference is in some line.

    A root reads as `keyd.domain.difference.change` has it. In other metadata come first the plain
    members, then targets or meta files (added, removed, changed; with lengths and hashes), then
    delegations (keys, roles).
    """
    if new.signed["_type"] == "root":
        return change(old, new).lines
    before = _NOTHING if old is None else old.signed
    apart = {_FILES, _ROLES, _META}
    return (
        *_members("", _without(before, apart), _without(new.signed, apart)),
        *_entries("target", before.get(_FILES, _NOTHING), new.signed.get(_FILES, _NOTHING)),
        *_entries("file", before.get(_META, _NOTHING), new.signed.get(_META, _NOTHING)),
        *_delegations(before.get(_ROLES) or _NOTHING, new.signed.get(_ROLES) or _NOTHING),
    )


def _members(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = _value(old, name), _value(new, name)
        if before != after:
            yield f"{prefix}{plain_text(name)}: {before} -> {after}"


def _entries(noun: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        known = plain_text(name)
        if name not in old:
            yield f"{noun} added: {known} {_facts(new[name])}"
        elif name not in new:
            yield f"{noun} removed: {known} {_facts(old[name])}"
        elif _text(old[name]) != _text(new[name]):
            yield f"{noun} changed: {known} {_facts(old[name])} -> {_facts(new[name])}"


def _delegations(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _entries("delegated key", old.get("keys", _NOTHING), new.get("keys", _NOTHING))
    before, after = _named(old), _named(new)
    yield from _entries("delegation", before, after)
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield f"delegations searched in another order: {', '.join(map(plain_text, after))}"
    apart = {"keys", "roles"}
    yield from _members("delegations: ", _without(old, apart), _without(new, apart))


def _named(delegations: Mapping[str, Any]) -> dict[str, Any]:
    """Delegated roles by name, in the order in which clients search them."""
    return {role["name"]: role for role in delegations.get("roles") or ()}


def _facts(entry: Any) -> str:
    """Members in a line, without braces where the entry is an object."""
    if not isinstance(entry, dict):
        return _text(entry)
    return " ".join(f"{plain_text(name)}={_text(entry[name])}" for name in sorted(entry))


def _without(value: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def _value(value: Mapping[str, Any], name: str) -> str:
    return _text(value[name]) if name in value else "(absent)"


def _text(value: Any) -> str:
    """ASCII JSON: whatever stands in it, a terminal prints it and does nothing else."""
    return json.dumps(value, sort_keys=True)
