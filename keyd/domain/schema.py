"""Members and their types in the four kinds of TUF payload (TUF 4.3 to 4.6, TAP 15).

What passes here can be indexed without further care: every member of the specification that is
present has its type, every required one is present. What the values say is for the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyd.domain.pointer import MAX_FINDINGS, TOP, Path, malformed
from keyd.errors import Finding

_TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    bool: "true or false",
}
_PRIVATE = "PRIVATE_KEY_IN_PAYLOAD"
# What a refusal names first.
_RANKS = {_PRIVATE: 0, "MEMBER_TYPE_WRONG": 1, "MEMBER_UNKNOWN": 2, "MEMBER_MISSING": 3}


@dataclass
class Inspection:
    """What one look at one payload found.

    `line_feeds` counts those inside `keyval.public`, the only place where they may stand.
    """

    extra_members: frozenset[str]
    findings: list[Finding] = field(default_factory=list)
    line_feeds: int = 0

    def add(self, reason: str, path: Path, message: str, *, rule: str = "A1") -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(malformed(reason, path, message, rule=rule))

    def visit(self, value: Any, shape: _Shape, path: Path) -> None:
        # Not isinstance: to Python, True is an integer.
        if type(value) is not shape.kind:
            self.add("MEMBER_TYPE_WRONG", path, f"must be {_TYPE_NAMES[shape.kind]}")
        elif shape.descend is not None:
            shape.descend(self, value, path)


def inspect(
    signed: Mapping[str, Any], *, role_type: str | None, extra_members: tuple[str, ...]
) -> Inspection:
    """Check the members of `signed` by its own `_type`.

    `role_type` is the type that the request wants, named in messages; `extra_members` are allowed
    in every object except `keyval`.
    """
    inspection = Inspection(frozenset(extra_members))
    kind = signed.get("_type", "")
    shape = _PAYLOADS.get(kind) if type(kind) is str else None
    if shape is not None:
        inspection.visit(signed, shape, TOP)
        inspection.findings.sort(key=lambda finding: _RANKS[finding.reason])
    elif "_type" not in signed:
        inspection.add("MEMBER_MISSING", (TOP, "_type"), "add this member")
    elif type(kind) is not str:
        inspection.visit(kind, _TEXT, (TOP, "_type"))
    else:
        wanted = f"`{role_type}`" if role_type else "one of " + ", ".join(_PAYLOADS)
        message = f"must be {wanted}, in lower case as in TUF 1.0"
        inspection.add("ROLE_TYPE_UNKNOWN", (TOP, "_type"), message, rule="A2")
    return inspection


@dataclass(frozen=True)
class _Shape:
    """A JSON type, and how to look further into it."""

    kind: type
    descend: Callable[[Inspection, Any, Path], None] | None = None


def _map_of(item: _Shape) -> _Shape:
    kind, look = item.kind, item.descend

    def descend(inspection: Inspection, value: dict[str, Any], path: Path) -> None:
        for name, member in value.items():
            # As `Inspection.visit`, which most members need not be brought to.
            if type(member) is not kind:
                inspection.visit(member, item, (path, name))
            elif look is not None:
                look(inspection, member, (path, name))

    return _Shape(dict, descend)


def _list_of(item: _Shape) -> _Shape:
    def descend(inspection: Inspection, value: list[Any], path: Path) -> None:
        for index, member in enumerate(value):
            inspection.visit(member, item, (path, index))

    return _Shape(list, descend)


def _members(
    required: Mapping[str, _Shape],
    optional: Mapping[str, _Shape],
    *,
    any_of: tuple[str, ...] = (),
) -> _Shape:
    """An object with these members and no others; at least one of `any_of` where given."""
    known = {**required, **optional}

    def descend(inspection: Inspection, value: dict[str, Any], path: Path) -> None:
        for name, member in value.items():
            shape = known.get(name)
            if shape is not None:
                if type(member) is not shape.kind:
                    inspection.visit(member, shape, (path, name))
                elif shape.descend is not None:
                    shape.descend(inspection, member, (path, name))
            elif not (name.startswith("x-") or name in inspection.extra_members):
                message = "unknown member: prefix it with `x-`, or list it in the role's rules"
                inspection.add("MEMBER_UNKNOWN", (path, name), message)
        if not required.keys() <= value.keys():
            for name in (each for each in required if each not in value):
                inspection.add("MEMBER_MISSING", (path, name), "add this member")
        if any_of and value.keys().isdisjoint(any_of):
            inspection.add("MEMBER_MISSING", path, "add " + " or ".join(any_of))

    return _Shape(dict, descend)


def _descend_keyval(inspection: Inspection, value: dict[str, Any], path: Path) -> None:
    for name, member in value.items():
        here = (path, name)
        if name != "public":
            inspection.add(_PRIVATE, here, "`keyval` holds `public` only, never private material")
        elif type(member) is not str:
            inspection.visit(member, _TEXT, here)
        elif "PRIVATE KEY" in member:
            inspection.add(_PRIVATE, here, "this is a private key: revoke it, send the public one")
        else:
            inspection.line_feeds += member.count("\n")
    if "public" not in value:
        inspection.add("MEMBER_MISSING", (path, "public"), "add this member")


_TEXT, _INTEGER, _BOOLEAN, _ANY_OBJECT = (_Shape(kind) for kind in (str, int, bool, dict))
_TEXTS = _list_of(_TEXT)
_HASHES = _map_of(_TEXT)
_KEYS = _map_of(
    _members(
        {"keytype": _TEXT, "scheme": _TEXT, "keyval": _Shape(dict, _descend_keyval)},
        {"keyid_hash_algorithms": _TEXTS},
    )
)
_SIGNERS = {"keyids": _TEXTS, "threshold": _INTEGER}
_META = _map_of(_members({"version": _INTEGER}, {"length": _INTEGER, "hashes": _HASHES}))
_TARGET = _members({"length": _INTEGER, "hashes": _HASHES}, {"custom": _ANY_OBJECT})
_DELEGATED_ROLE = _members(
    {**_SIGNERS, "name": _TEXT, "terminating": _BOOLEAN},
    {"paths": _TEXTS, "path_hash_prefixes": _TEXTS},
)
_DELEGATIONS = _members(
    {"keys": _KEYS},
    {
        "roles": _list_of(_DELEGATED_ROLE),
        "succinct_roles": _members({**_SIGNERS, "bit_length": _INTEGER, "name_prefix": _TEXT}, {}),
    },
    any_of=("roles", "succinct_roles"),
)
_COMMON = {"_type": _TEXT, "spec_version": _TEXT, "version": _INTEGER, "expires": _TEXT}
_PAYLOADS = {
    "root": _members(
        {**_COMMON, "keys": _KEYS, "roles": _map_of(_members(_SIGNERS, {}))},
        {"consistent_snapshot": _BOOLEAN},
    ),
    "targets": _members({**_COMMON, "targets": _map_of(_TARGET)}, {"delegations": _DELEGATIONS}),
    "snapshot": _members({**_COMMON, "meta": _META}, {}),
    "timestamp": _members({**_COMMON, "meta": _META}, {}),
}
