"""What a root changes about the one before it, in lines for the person who confirms it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyd.domain.delegations import key_table
from keyd.domain.payload import Payload

_HEADER = "keyd-root-change-v1"
_NOTHING: Mapping[str, Any] = {}
_PLAIN = re.compile(r"[\w.@/-]+", re.ASCII)


@dataclass(frozen=True)
class Change:
    """The difference between two roots.

    `lines` are for reading: one fact each, printable ASCII, in a fixed order. `digest` is the
    SHA-256 (64 hex digits) of the lines and both payloads: whoever confirms it confirms these bytes
    and no others.
    """

    lines: tuple[str, ...]
    digest: str


def change(old: Payload | None, new: Payload) -> Change:
    """Describe root `new` against root `old`, or against nothing for the first root.

    The digest is the SHA-256 of ASCII lines, each ended by a line feed: `keyd-root-change-v1`, the
    old payload's digest (64 hex digits; `-` if there is none), the new payload's, then `lines`.
    """
    before = _NOTHING if old is None else old.signed
    lines = (
        *_members("", _without(before, "keys", "roles"), _without(new.signed, "keys", "roles")),
        *_roles(before.get("roles", _NOTHING), new.signed["roles"], _names(old), _names(new)),
        *_keys(before.get("keys", _NOTHING), new.signed["keys"], _names(old), _names(new)),
    )
    head = (_HEADER, "-" if old is None else old.digest, new.digest)
    text = "".join(f"{line}\n" for line in head + lines)
    return Change(lines, hashlib.sha256(text.encode()).hexdigest())


def _names(payload: Payload | None) -> Mapping[str, str]:
    """Fingerprint of each key by key id; keys that do not decode have none.

    Elliptic points in hex, which nothing accepts any more, still tell theirs: so their successors
    in PEM are recognised.
    """
    if payload is None:
        return _NOTHING
    table = key_table(payload)
    told = {
        keyid: fault.details["fingerprint"]
        for keyid, fault in table.faults.items()
        if "fingerprint" in fault.details
    }
    return {**told, **table.fingerprints}


def _members(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = _value(old, name), _value(new, name)
        if before != after:
            yield f"{prefix}{plain_text(name)}: {before} -> {after}"


def _roles(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_names: Mapping[str, str],
    new_names: Mapping[str, str],
) -> Iterator[str]:
    for role in sorted(old.keys() | new.keys()):
        prefix = f"role {plain_text(role)}: "
        before, after = old.get(role, _NOTHING), new.get(role, _NOTHING)
        yield from _members(prefix, _without(before, "keyids"), _without(after, "keyids"))
        gone = _missing_from(after.get("keyids", ()), before.get("keyids", ()), old_names)
        come = _missing_from(before.get("keyids", ()), after.get("keyids", ()), new_names)
        for fingerprint in sorted(gone.keys() | come.keys()):
            yield f"{prefix}{_listing(fingerprint, gone.get(fingerprint), come.get(fingerprint))}"


def _missing_from(
    other: Sequence[str], keyids: Sequence[str], names: Mapping[str, str]
) -> dict[str, str]:
    """Key ids that the other list lacks, by what identifies the key."""
    return {
        names.get(keyid, f"(no usable key, {plain_text(keyid)})"): keyid
        for keyid in keyids
        if keyid not in other
    }


def _listing(fingerprint: str, old: str | None, new: str | None) -> str:
    if old is None:
        return f"key added: {fingerprint} as {plain_text(str(new))}"
    if new is None:
        return f"key removed: {fingerprint} as {plain_text(old)}"
    return f"key stays under another id: {fingerprint} as {plain_text(old)} -> {plain_text(new)}"


def _keys(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_names: Mapping[str, str],
    new_names: Mapping[str, str],
) -> Iterator[str]:
    for keyid in sorted(old.keys() | new.keys()):
        before, after = _key(old, keyid, old_names), _key(new, keyid, new_names)
        yield from _members(f"key {plain_text(keyid)}: ", before, after)


def _key(keys: Mapping[str, Any], keyid: str, names: Mapping[str, str]) -> Mapping[str, Any]:
    if keyid not in keys:
        return _NOTHING
    return {**keys[keyid], "fingerprint": names.get(keyid, "none")}


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def _value(value: Mapping[str, Any], name: str) -> str:
    return json.dumps(value[name], sort_keys=True) if name in value else "(absent)"


def plain_text(text: str) -> str:
    """Names as they are if plain, else as ASCII JSON: no line feed, no look-alike passes."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
