"""A small honest repository to bend: its keys, its four payloads, and what keyd knows of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.domain import canonical, public_keys
from keyd.domain.difference import change
from keyd.domain.payload import Payload, parse
from keyd.domain.rules import Judgement, judge
from keyd.domain.trust import (
    Basis,
    KeySet,
    KnownVersion,
    Question,
    RepositoryState,
    RepositoryView,
    RoleView,
    SigningKey,
    default_rules,
)

NOW = datetime(2030, 6, 1, tzinfo=UTC)
Signed = dict[str, Any]
Bend = Callable[[Signed], object]


@cache
def key(name: str) -> Signed:
    """The TUF key object of an Ed25519 key that belongs to `name`."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    public = private.public_key().public_bytes_raw().hex()
    return {"keytype": "ed25519", "keyval": {"public": public}, "scheme": "ed25519"}


@cache
def keyid(name: str) -> str:
    return public_keys.keyid_three_members(key(name))


@cache
def fingerprint(name: str) -> str:
    return public_keys.fingerprint_of(key(name))


def keys(*names: str) -> Signed:
    return {keyid(name): copy.deepcopy(key(name)) for name in names}


def listing(threshold: int, *names: str) -> Signed:
    return {"keyids": [keyid(name) for name in names], "threshold": threshold}


def in_days(days: float) -> str:
    return (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def common(role: str, version: int, days: float) -> Signed:
    return {"_type": role, "spec_version": "1.0.31", "version": version, "expires": in_days(days)}


def root(version: int = 1, days: float = 365) -> Signed:
    return {
        **common("root", version, days),
        "consistent_snapshot": True,
        "keys": keys("r1", "r2", "r3", "t1", "s1", "ts1"),
        "roles": {
            "root": listing(2, "r1", "r2", "r3"),
            "targets": listing(1, "t1"),
            "snapshot": listing(1, "s1"),
            "timestamp": listing(1, "ts1"),
        },
    }


def target(content: bytes = b"content") -> Signed:
    return {
        "length": len(content),
        "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
    }


def targets(version: int = 1, *paths: str) -> Signed:
    return {**common("targets", version, 90), "targets": {path: target() for path in paths}}


def delegation(name: str, *key_names: str, **scope: Any) -> Signed:
    return {"name": name, **listing(1, *key_names), "terminating": False, **scope}


def delegating(version: int, *roles: Signed, key_names: tuple[str, ...] = ("d1",)) -> Signed:
    return {
        **targets(version),
        "delegations": {"keys": keys(*key_names), "roles": list(roles)},
    }


def succinct(bit_length: int = 4, prefix: str = "bin") -> Signed:
    bins = {**listing(1, "d1"), "bit_length": bit_length, "name_prefix": prefix}
    return {**targets(1), "delegations": {"keys": keys("d1"), "succinct_roles": bins}}


def snapshot(version: int = 1, **versions: int) -> Signed:
    listed = {"targets": 1, **versions}
    meta = {f"{role}.json": {"version": number} for role, number in listed.items()}
    return {**common("snapshot", version, 7), "meta": meta}


def timestamp(version: int = 1, snapshot_version: int = 1) -> Signed:
    meta = {"snapshot.json": {"version": snapshot_version}}
    return {**common("timestamp", version, 1), "meta": meta}


def payload(signed: Mapping[str, Any]) -> Payload:
    """Through the real parser, so that rules only ever see what it lets pass."""
    return parse(canonical.encode(signed), max_bytes=5_000_000)


def accepted(role: str, version: int, digest: str = "ab" * 32, **facts: Any) -> KnownVersion:
    return KnownVersion(role, version, digest, accepted=True, **facts)


def known(*versions: KnownVersion) -> dict[tuple[str, int], KnownVersion]:
    return {(version.role, version.version): version for version in versions}


def view(role: str, **fields: Any) -> RepositoryView:
    """An active repository with root 1 and targets 1 and snapshot 1 on record.

    Fields of `RoleView` go to the role, all others to the repository.
    """
    role_fields = {name: fields.pop(name) for name in _ROLE_FIELDS & fields.keys()}
    about_role = RoleView(role, 0, **{"high_water": 0, "rules": default_rules(role), **role_fields})
    return RepositoryView(
        **{
            "name": "demo",
            "state": RepositoryState.ACTIVE,
            "development": False,
            "imported": False,
            "role": about_role,
            "basis": Basis(None, {}),
            "trusted_root": payload(root()),
            "known": known(accepted("targets", 1), accepted("snapshot", 1)),
            **fields,
        }
    )


_ROLE_FIELDS = {"high_water", "rules", "trusted", "delegators", "ancestry", "pending"}


def bootstrap_view(**fields: Any) -> RepositoryView:
    intended = {name: fingerprint(name) for name in ("r1", "r2", "r3")}
    return view(
        "root",
        **{
            "state": RepositoryState.BOOTSTRAP,
            "trusted_root": None,
            "bootstrap": KeySet("bootstrap", 2, intended),
            **fields,
        },
    )


def successor_view(**fields: Any) -> RepositoryView:
    """Root 1 is trusted and root 2 is to be signed."""
    return view("root", **{"high_water": 1, **fields})


def ask(
    signed: Signed,
    about: RepositoryView,
    key_name: str | None = None,
    *,
    bend: Bend | None = None,
    confirm: bool = True,
    now: datetime = NOW,
) -> Judgement:
    """Judge a (bent copy of a) payload; roots come with their change confirmed."""
    bent = copy.deepcopy(signed)
    if bend is not None:
        bend(bent)
    question = Question(payload(bent), now)
    if key_name is not None:
        question = replace(question, key=SigningKey(key_name, fingerprint(key_name)))
    if confirm and bent["_type"] == "root":
        confirmed = change(about.trusted_root, question.payload).digest
        question = replace(question, confirmed_change=confirmed)
    return judge(question, about)


def refusals(judgement: Judgement) -> list[str]:
    return [found.reason for found in judgement.refusals]


def warnings(judgement: Judgement) -> list[str]:
    return [found.reason for found in judgement.warnings]


def put(pointer: str, value: Any) -> Bend:
    """A bend that sets the value at a JSON pointer, whose last step may be new."""

    def bend(signed: Signed) -> None:
        parent, last = _find(signed, pointer)
        parent[last] = value

    return bend


def drop(pointer: str) -> Bend:
    """A bend that removes the value at a JSON pointer."""

    def bend(signed: Signed) -> None:
        parent, last = _find(signed, pointer)
        del parent[last]

    return bend


def both(*bends: Bend) -> Bend:
    """One bend after the other."""

    def bend(signed: Signed) -> None:
        for one in bends:
            one(signed)

    return bend


def _find(value: Any, pointer: str) -> tuple[Any, Any]:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    *parents, last = [int(step) if step.isdigit() else step for step in steps]
    for step in parents:
        value = value[step]
    return value, last
