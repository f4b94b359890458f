"""New payloads from trusted ones: what the change says, a version, an expiry, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keyd.domain.delegations import key_table
from keyd.domain.payload import Payload
from keyd.domain.rules.expiry import trusted_expiry
from keyd.domain.trust import FileFacts, RoleRules, type_of_role

Signed = dict[str, Any]

_LIFETIMES = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}


@dataclass(frozen=True)
class ListChange:
    """What happens to one role's list: key ids with their objects in, fingerprints out."""

    add: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    remove: frozenset[str] = frozenset()
    threshold: int | None = None


@dataclass(frozen=True)
class Listed:
    """A file as metadata names it."""

    version: int
    facts: FileFacts


def expiry(
    trusted: Payload,
    role: str,
    rules: RoleRules,
    now: datetime,
    lifetime_s: int = 0,
    *,
    shorter: bool = False,
) -> str:
    """When the next version expires: after its type's usual time, never before the last one.

    Unless it may be `shorter`. The role's rules have the last word. TUF 4.2.3's form.
    """
    latest = now + timedelta(seconds=rules.expiry_max_s)
    usual = _LIFETIMES[type_of_role(role)]
    if lifetime_s:
        usual = timedelta(seconds=min(lifetime_s, rules.expiry_max_s))
    wanted = now + usual
    before = trusted_expiry(trusted)
    if before is not None and not shorter:
        wanted = max(wanted, before)
    # Some seconds pass until it is judged.
    moment = min(wanted, latest - timedelta(seconds=1))
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bump(trusted: Payload, version: int, expires: str) -> Signed:
    """The same content under the next version."""
    signed: Signed = copy.deepcopy(dict(trusted.signed))
    signed["version"], signed["expires"] = version, expires
    return signed


def build_root(trusted: Payload, bumped: Signed, changes: Mapping[str, ListChange]) -> Signed:
    """Root with other keys for its roles; keys that no role lists any more are gone."""
    for role, change in changes.items():
        _change_list(trusted, bumped["roles"][role], bumped["keys"], change)
    _drop_unused(bumped["keys"], bumped["roles"].values())
    return bumped


def build_delegator(trusted: Payload, bumped: Signed, changes: Mapping[str, ListChange]) -> Signed:
    """A targets payload that delegates to other keys; `changes` by role name or prefix of bins."""
    delegations = bumped.get("delegations")
    if not changes or delegations is None:
        return bumped
    lists = [(entry["name"], entry) for entry in delegations.get("roles", ())]
    if bins := delegations.get("succinct_roles"):
        lists.append((bins["name_prefix"], bins))
    for name, entry in lists:
        if name in changes:
            _change_list(trusted, entry, delegations["keys"], changes[name])
    _drop_unused(delegations["keys"], [entry for _, entry in lists])
    return bumped


def build_snapshot(bumped: Signed, files: Mapping[str, Listed]) -> Signed:
    """A snapshot that lists new files as it listed the old ones: with hashes if those had some."""
    for role, listed in files.items():
        name = f"{role}.json"
        bumped["meta"][name] = _entry(bumped["meta"].get(name, {}), listed)
    return bumped


def build_timestamp(bumped: Signed, snapshot: Listed | None) -> Signed:
    """A timestamp that points to a new snapshot, or to the same one."""
    if snapshot is not None:
        entry = bumped["meta"].get("snapshot.json", {})
        bumped["meta"]["snapshot.json"] = _entry(entry, snapshot)
    return bumped


def _entry(before: Mapping[str, Any], listed: Listed) -> Signed:
    entry: Signed = {"version": listed.version}
    if "length" in before:
        entry["length"] = listed.facts.length
    if "hashes" in before:
        known = listed.facts.hashes
        entry["hashes"] = {name: known[name] for name in before["hashes"] if name in known} or {
            "sha256": known["sha256"]
        }
    return entry


def _change_list(trusted: Payload, entry: Signed, keys: dict[str, Any], change: ListChange) -> None:
    known = key_table(trusted).fingerprints
    kept = [keyid for keyid in entry["keyids"] if known.get(keyid) not in change.remove]
    entry["keyids"] = kept + [keyid for keyid, _ in change.add if keyid not in kept]
    keys.update({keyid: dict(found) for keyid, found in change.add})
    if change.threshold is not None:
        entry["threshold"] = change.threshold


def _drop_unused(keys: dict[str, Any], lists: Iterable[Mapping[str, Any]]) -> None:
    used = {keyid for entry in lists for keyid in entry["keyids"]}
    for keyid in set(keys) - used:
        del keys[keyid]
