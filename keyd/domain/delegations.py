"""Who speaks for which role and which target paths: what root and targets payloads hand out.

Payloads are consulted once per bin, thousands of times: what is read from one is kept by its
digest. Delegation search and path matching follow TUF 4.5 and 5.6.7, bins TAP 15.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

from keyd.domain import public_keys
from keyd.domain.path_patterns import PathPatterns
from keyd.domain.payload import Payload
from keyd.domain.records import Delegation
from keyd.domain.trust import KeySet
from keyd.errors import KeydError

MAX_BIT_LENGTH = 32
# A delegator with 16,384 named bins takes about 10 MB; few are in use at a time.
_KEPT_DELEGATORS = 32
_KEPT_SCOPES = 64
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Scope(Protocol):
    """Whether a target path belongs to somebody."""

    def __call__(self, path: str) -> bool: ...

    def effort(self, paths: int) -> int:
        """How many comparisons with patterns so many paths may take."""


@dataclass(frozen=True)
class Succinct:
    """`2**bit_length` hash bins with one key list (TAP 15, `succinct_roles`)."""

    name_prefix: str
    bit_length: int

    @property
    def suffix_length(self) -> int:
        """Hex digits in which every bin number is written."""
        return len(f"{2**self.bit_length - 1:x}")

    @property
    def first(self) -> str:
        """The name of bin 0, which has the same keys as every other."""
        return f"{self.name_prefix}-{'0' * self.suffix_length}"

    def covers(self, role: str) -> bool:
        """Whether `role` is the name of one of the bins."""
        prefix = f"{self.name_prefix}-"
        suffix = role.removeprefix(prefix)
        if not role.startswith(prefix) or len(suffix) != self.suffix_length:
            return False
        return bool(_HEX.fullmatch(suffix)) and int(suffix, 16) < 2**self.bit_length

    def scope_of(self, role: str) -> Scope:
        """Which target paths belong to a bin: those whose SHA-256 begins with its number."""
        number = int(role.removeprefix(f"{self.name_prefix}-"), 16)
        return _Quick(partial(_is_in_bin, number, MAX_BIT_LENGTH - self.bit_length))


@dataclass(frozen=True)
class Delegates:
    """The roles that one payload gives keys to; bins of `succinct_roles` are not enumerated."""

    names: frozenset[str] = frozenset()
    bins: Succinct | None = None

    def covers(self, role: str) -> bool:
        """Whether the payload gives keys to `role`."""
        return role in self.names or (self.bins is not None and self.bins.covers(role))


@dataclass(frozen=True)
class KeyTable:
    """The key objects of a payload, decoded.

    `fingerprints` maps key ids to the SHA-256 (hex) of the SubjectPublicKeyInfo; `faults` those of
    keys that cannot be used to the reason why (KEY_SCHEME_UNKNOWN, KEY_UNDECODABLE,
    KEY_CURVE_MISMATCH, KEY_TOO_WEAK).
    """

    fingerprints: Mapping[str, str]
    faults: Mapping[str, KeydError]


@dataclass(frozen=True)
class _Grant:
    keyids: tuple[str, ...]
    threshold: int
    paths: tuple[str, ...] = ()
    hash_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Index:
    table: KeyTable
    materials: Mapping[str, str]
    grants: Mapping[str, _Grant]
    delegates: Delegates
    bins: _Grant | None
    # The last scopes that were asked for, by role.
    scopes: dict[str, Scope] = field(default_factory=dict, compare=False)

    def grant(self, role: str) -> _Grant | None:
        found = self.grants.get(role)
        if found is None and self.delegates.bins is not None and self.delegates.bins.covers(role):
            return self.bins
        return found


@dataclass(frozen=True)
class _Source:
    """The delegating part of a payload; equal when the payload's digest is."""

    digest: str
    part: Mapping[str, Any] = field(compare=False)


_NOTHING = _Index(KeyTable({}, {}), {}, {}, Delegates(), None)


def key_set(payload: Payload, role: str, delegator: str) -> KeySet | None:
    """The keys and threshold that a root or targets payload gives `role`; None if it names it not.

    `delegator` says who speaks, e.g. "root:4". Key ids that resolve to no usable key are left out:
    they have no vote.
    """
    index = _index_of(payload)
    grant = index.grant(role)
    if grant is None:
        return None
    known = index.table.fingerprints
    listed = {keyid: known[keyid] for keyid in grant.keyids if keyid in known}
    return KeySet(delegator, grant.threshold, listed)


def lists_under(payload: Payload, name: str, delegator: str) -> tuple[KeySet, ...]:
    """The key lists that a payload has under a name: a role's, or that of the bins so prefixed."""
    bins = delegates(payload).bins
    roles = (name, bins.first) if bins is not None and bins.name_prefix == name else (name,)
    found = (key_set(payload, role, delegator) for role in roles)
    return tuple(keys for keys in found if keys is not None)


def delegates(payload: Payload) -> Delegates:
    """The roles a payload gives keys to: the roles of a root, the delegations of a targets."""
    return _index_of(payload).delegates


def key_table(payload: Payload) -> KeyTable:
    """All key objects of a root or targets payload by key id, decoded or with what is wrong."""
    return _index_of(payload).table


def key_materials(payload: Payload) -> Mapping[str, str]:
    """Fingerprint to key id of every usable key in a payload (several ids: the first by name)."""
    return _index_of(payload).materials


def delegated_keys(payload: Payload) -> tuple[Delegation, ...]:
    """Every (role, key) pair that a root or targets payload hands out; bins are one role."""
    index = _index_of(payload)
    known = index.table.fingerprints
    granted = [(role, grant, 0) for role, grant in index.grants.items()]
    bins = index.delegates.bins
    if bins is not None and index.bins is not None:
        granted.append((bins.name_prefix, index.bins, bins.bit_length))
    return tuple(
        Delegation(role, known[keyid], bit_length)
        for role, grant, bit_length in granted
        for keyid in grant.keyids
        if keyid in known
    )


def scope_of(payload: Payload, role: str) -> Scope:
    """Which target paths a targets payload delegates to `role` (TUF 4.5); none if it does not.

    Patterns are shell-style and match part by part: `*` does not cross a slash.
    """
    index = _index_of(payload)
    grant = index.grants.get(role)
    if grant is None:
        bins = index.delegates.bins
        return bins.scope_of(role) if bins is not None and bins.covers(role) else _NOWHERE
    scope = index.scopes.get(role)
    if scope is None:
        if len(index.scopes) >= _KEPT_SCOPES:
            index.scopes.clear()
        scope = index.scopes[role] = _scope(grant)
    return scope


def _scope(grant: _Grant) -> Scope:
    if grant.hash_prefixes:
        return _Quick(partial(_has_prefix, _by_length(grant.hash_prefixes)))
    return PathPatterns(grant.paths)


@dataclass(frozen=True)
class _Quick:
    """A scope without patterns."""

    answer: Callable[[str], bool]

    def __call__(self, path: str) -> bool:
        return self.answer(path)

    def effort(self, paths: int) -> int:  # noqa: ARG002 - none for any number
        return 0


def _is_in_bin(number: int, shift: int, path: str) -> bool:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") >> shift == number


def _nowhere(_: str) -> bool:
    return False


_NOWHERE = _Quick(_nowhere)


def _by_length(prefixes: Iterable[str]) -> Mapping[int, frozenset[str]]:
    lengths = {len(prefix) for prefix in prefixes}
    return {n: frozenset(each for each in prefixes if len(each) == n) for n in lengths}


def _has_prefix(prefixes: Mapping[int, frozenset[str]], path: str) -> bool:
    digest = hashlib.sha256(path.encode()).hexdigest()
    return any(digest[:length] in known for length, known in prefixes.items())


def _index_of(payload: Payload) -> _Index:
    signed = payload.signed
    # Most targets payloads delegate nothing: they must not crowd delegators out of the cache.
    # Not by its members: role rules may allow extra ones, of any name.
    part = None
    if signed["_type"] == "root":
        part = signed
    elif signed["_type"] == "targets":
        part = signed.get("delegations")
    return _index(_Source(payload.digest, part)) if part else _NOTHING


@lru_cache(maxsize=_KEPT_DELEGATORS)
def _index(source: _Source) -> _Index:
    part = source.part
    table = _decode(part["keys"])
    materials: dict[str, str] = {}
    for keyid, fingerprint in sorted(table.fingerprints.items()):
        materials.setdefault(fingerprint, keyid)
    grants: dict[str, _Grant] = {}
    for name, entry in _entries(part.get("roles", ())):
        grants.setdefault(name, _grant(entry))
    bins = _bins(part.get("succinct_roles"))
    return _Index(
        table=table,
        materials=materials,
        grants=grants,
        delegates=Delegates(frozenset(grants), bins),
        bins=None if bins is None else _grant(part["succinct_roles"]),
    )


def _entries(roles: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Root writes its roles as an object, targets as a list with names."""
    if isinstance(roles, Mapping):
        return list(roles.items())
    return [(entry["name"], entry) for entry in roles]


def _grant(entry: Mapping[str, Any]) -> _Grant:
    return _Grant(
        keyids=tuple(entry["keyids"]),
        threshold=entry["threshold"],
        paths=tuple(entry.get("paths", ())),
        hash_prefixes=tuple(entry.get("path_hash_prefixes", ())),
    )


def _bins(succinct: Mapping[str, Any] | None) -> Succinct | None:
    if succinct is None or not 1 <= succinct["bit_length"] <= MAX_BIT_LENGTH:
        return None
    return Succinct(succinct["name_prefix"], succinct["bit_length"])


def _decode(keys: Mapping[str, Mapping[str, Any]]) -> KeyTable:
    fingerprints: dict[str, str] = {}
    faults: dict[str, KeydError] = {}
    for keyid, key in keys.items():
        try:
            fingerprints[keyid] = public_keys.fingerprint_of(key)
        except KeydError as fault:
            faults[keyid] = fault
    return KeyTable(fingerprints, faults)
