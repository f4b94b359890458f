"""Rules R3 to R6: keys, key lists and thresholds, in root and in delegations alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyd.domain import public_keys
from keyd.domain.delegations import KeyTable
from keyd.domain.pointer import Path
from keyd.domain.rules.objections import graded, invalid
from keyd.domain.trust import KeyIdFormula, RepositoryView, RoleRules
from keyd.errors import Finding


@dataclass(frozen=True)
class Listing:
    """One role's keys as a payload lists them: at `path`, under the floors of `rules`."""

    path: Path
    keyids: Sequence[str]
    threshold: int
    rules: RoleRules


@dataclass(frozen=True)
class ListedKeys:
    """The `keys` of a payload, at `path`, and what they decode to."""

    path: Path
    objects: Mapping[str, Mapping[str, Any]]
    table: KeyTable


def check_role_keys(
    keys: ListedKeys, listings: Sequence[Listing], view: RepositoryView
) -> Iterator[Finding]:
    """R3 to R6 for all roles that one payload gives keys to."""
    for listing in listings:
        yield from _check_keyids(listing, keys.objects)
        yield from _check_threshold(listing, warn=view.imported or view.development)
    used = {keyid for listing in listings for keyid in listing.keyids}
    yield from _check_keys(keys, used)
    yield from _check_formula(keys, view.role.rules.keyid_formula, warn=view.imported)


def _check_threshold(listing: Listing, *, warn: bool) -> Iterator[Finding]:
    threshold, distinct = listing.threshold, len(set(listing.keyids))
    path = (listing.path, "threshold")
    if threshold < 1:
        yield invalid("R3", "THRESHOLD_INVALID", path, "a threshold is at least 1")
        return
    if threshold > distinct:
        message = f"{threshold} signatures from {distinct} keys: lower it or list more keys"
        yield invalid("R3", "THRESHOLD_ABOVE_KEYS", path, message)
    elif threshold == distinct and listing.rules.require_spare_key:
        message = "one lost key would lock this role for ever: list a spare one"
        yield graded(warn, "R3", "NO_SPARE_KEY", path, message)
    if threshold < listing.rules.threshold_floor:
        message = f"this role's rules ask for at least {listing.rules.threshold_floor}"
        yield graded(warn, "R3", "THRESHOLD_BELOW_FLOOR", path, message)


def _check_keyids(listing: Listing, objects: Mapping[str, Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, keyid in enumerate(listing.keyids):
        path = ((listing.path, "keyids"), index)
        if keyid in seen:
            yield invalid("R4", "KEYID_REPEATED", path, "list each key once")
        elif keyid not in objects:
            yield invalid("R4", "KEYID_UNRESOLVED", path, "add this key to `keys`, or drop its id")
        seen.add(keyid)


def _check_keys(keys: ListedKeys, used: Iterable[str]) -> Iterator[Finding]:
    fingerprints, faults = keys.table.fingerprints, keys.table.faults
    holders = Counter(fingerprints.values())
    for keyid in keys.objects:
        path = (keys.path, keyid)
        if keyid not in used:
            yield invalid("R4", "KEY_UNUSED", path, "no role lists this key: drop it")
        if keyid in faults:
            fault = faults[keyid]
            yield invalid("R6", fault.reason, path, fault.message)
        elif holders[fingerprints[keyid]] > 1:
            message = "another key id has the same key: it would vote twice, keep one id"
            yield invalid("R4", "KEY_MATERIAL_REPEATED", path, message)


def _check_formula(keys: ListedKeys, formula: KeyIdFormula, *, warn: bool) -> Iterator[Finding]:
    if formula is KeyIdFormula.UNCHECKED:
        return
    for keyid, key in keys.objects.items():
        if keyid not in _keyids(key, formula):
            message = f"not the SHA-256 of this key object (formula {formula.value}): recompute it"
            yield graded(warn, "R5", "KEYID_INCORRECT", (keys.path, keyid), message)


def _keyids(key: Mapping[str, Any], formula: KeyIdFormula) -> Iterator[str]:
    if formula is not KeyIdFormula.WHOLE_OBJECT:
        yield public_keys.keyid_three_members(key)
    if formula is not KeyIdFormula.THREE_MEMBERS:
        yield public_keys.keyid_whole_object(key)
