"""Rules T3 and S4: what snapshot and timestamp refer to is recorded, accepted and matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyd.domain.file_hashes import HASH_DIGITS, is_hash, what_is_wrong
from keyd.domain.payload import Payload
from keyd.domain.pointer import Path
from keyd.domain.rules.objections import graded, invalid, refused
from keyd.domain.trust import FileFacts, KnownVersion
from keyd.errors import Finding

_SUFFIX = ".json"


@dataclass(frozen=True)
class ReferenceRule:
    """How one payload type names its objections to what it refers to."""

    rule: str
    unknown: str
    mismatch: str


def references(payload: Payload, trusted: Payload | None = None) -> tuple[tuple[str, int], ...]:
    """The (role, version) pairs a snapshot or timestamp refers to; others refer to nothing.

    With `trusted`, the payload of the same role accepted before, only new and changed entries: the
    rules look at no others.
    """
    before = trusted.signed.get("meta", {}) if trusted is not None else {}
    return tuple(
        (role_of(name), entry["version"])
        for name, entry in payload.signed.get("meta", {}).items()
        if before.get(name) != entry
    )


def role_of(name: str) -> str:
    """The role a `meta` entry names: "targets" for "targets.json" (TUF 4.4)."""
    return name.removesuffix(_SUFFIX)


def check_reference(
    entry: Mapping[str, Any], known: KnownVersion | None, path: Path, rule: ReferenceRule
) -> Iterator[Finding]:
    """The referenced version is recorded and accepted; its length and hashes are the file's."""
    impossible = list(_check_possible(entry, path, rule))
    if impossible:
        yield from impossible
    elif known is None:
        message = "no such version is recorded here: sign it, or import it if it was published"
        yield refused(rule.rule, rule.unknown, path, message)
    elif not known.accepted:
        message = "the referenced version still misses signatures: finish it first"
        yield refused("C2", "SIGNING_ORDER_WRONG", path, message)
    elif "length" in entry or "hashes" in entry:
        yield from _check_file(entry, known.file, path, rule)


def _check_possible(entry: Mapping[str, Any], path: Path, rule: ReferenceRule) -> Iterator[Finding]:
    """What no version and no file can be: no client gets past it."""
    if entry["version"] < 1:
        message = "versions start at 1"
        yield invalid(rule.rule, "REFERENCE_INVALID", (path, "version"), message)
    if entry.get("length", 0) < 0:
        message = "a length is a number of bytes, 0 or more"
        yield invalid(rule.rule, "REFERENCE_INVALID", (path, "length"), message)
    if "hashes" in entry and not entry["hashes"]:
        message = "list a hash, or leave out `hashes`"
        yield invalid(rule.rule, "REFERENCE_INVALID", (path, "hashes"), message)
    for algorithm in entry.get("hashes", ()):
        if algorithm not in HASH_DIGITS:
            where = ((path, "hashes"), algorithm)
            yield invalid(rule.rule, "REFERENCE_INVALID", where, what_is_wrong(algorithm))


def _check_file(
    entry: Mapping[str, Any], file: FileFacts | None, path: Path, rule: ReferenceRule
) -> Iterator[Finding]:
    if "length" in entry:
        outcome = None if file is None else entry["length"] == file.length
        yield from _compare(outcome, (path, "length"), rule)
    for algorithm, value in entry.get("hashes", {}).items():
        outcome = _compare_hash(algorithm, value, file)
        yield from _compare(outcome, ((path, "hashes"), algorithm), rule)


def _compare_hash(algorithm: str, value: str, file: FileFacts | None) -> bool | None:
    if not is_hash(algorithm, value):
        return False
    if file is None or algorithm not in file.hashes:
        return None
    return file.hashes[algorithm] == value


def _compare(outcome: bool | None, path: Path, rule: ReferenceRule) -> Iterator[Finding]:
    if outcome is None:
        message = "nothing is known of the file to compare with: import it to have this checked"
        yield graded(True, rule.rule, "HASHES_UNCHECKED", path, message)
    elif not outcome:
        message = "not the recorded file's: describe the file that was published"
        yield refused(rule.rule, rule.mismatch, path, message)
