"""The policy file: `[[grant]]` and `[[quorum]]` tables in TOML, read strictly, with their lines."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keyd.config.files import parse_toml, read_trusted
from keyd.config.problems import ConfigurationError, from_validation, pointer, problem
from keyd.domain.methods import MAY_TOUCH, METHODS, Resource
from keyd.domain.operations import CALLS
from keyd.domain.policy import PRINCIPAL_KINDS, Grant, Policy, Quorum
from keyd.domain.quorum import BASE, QuorumRule
from keyd.errors import Finding

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*(grant|quorum)[ \t]*\]\][ \t]*(?:#.*)?$")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Resource kind to the member that lists names and the members that cover without naming.
_MEMBERS: dict[Resource, tuple[str, tuple[str, ...]]] = {
    Resource.REPOSITORY: ("repositories", ("any_repository",)),
    Resource.ROLE: ("roles", ("any_role", "any_delegated_role")),
    Resource.KEY: ("keys", ("any_key",)),
    Resource.TOKEN: ("tokens", ("any_token",)),
}

Names = Annotated[tuple[str, ...], Field(strict=False)]


class ScopeTable(BaseModel):
    """What grants and quorum rules share; docs/reference/policy.md explains each member."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    principals: Names = ()
    methods: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    repositories: Names = ()
    any_repository: bool = False
    roles: Names = ()
    any_role: bool = False
    any_delegated_role: bool = False
    keys: Names = ()
    any_key: bool = False
    tokens: Names = ()
    any_token: bool = False


class GrantTable(ScopeTable):
    """One `[[grant]]` as it is written."""

    principals: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class QuorumTable(ScopeTable):
    """One `[[quorum]]` as it is written."""

    principals: Annotated[tuple[str, ...], Field(strict=False, max_length=0)] = ()
    officers: Annotated[int, Field(ge=1, le=100)]
    groups: dict[str, Annotated[int, Field(ge=1)]] = {}


def load_policy(path: Path) -> Policy:
    """Read a policy file. Raises: ConfigurationError with every problem found."""
    return parse_policy(read_trusted(path), path)


def parse_policy(data: bytes, path: Path) -> Policy:
    """The policy that a file's bytes mean; `path` is for messages only.

    Raises: ConfigurationError with every problem found.
    """
    document = parse_toml(path, data)
    findings = [
        problem(
            "SETTING_INVALID",
            pointer(member),
            f"unknown table {member!r}; only [[grant]] and [[quorum]]",
        )
        for member in document
        if member not in _TABLES
    ]
    headers = _headers(data.decode("utf-8"))
    read: dict[str, list[tuple[Any, int]]] = {kind: [] for kind in _TABLES}
    for kind, lines in headers.items():
        tables = document.get(kind, [])
        if not isinstance(tables, list) or len(tables) != len(lines):
            words = f"write each {kind} below a line [[{kind}]]"
            findings.append(problem(f"{kind.upper()}_SHAPE", f"/{kind}", words))
            raise ConfigurationError(path, findings)
        for index, (table, line) in enumerate(zip(tables, lines, strict=True)):
            found, problems = _read_table(kind, index, table, line)
            findings += problems
            read[kind] += [(found, line)] if found else []
        findings += _same_names(kind, [found.name for found, _ in read[kind]])
    if findings:
        raise ConfigurationError(path, findings)
    return Policy(
        hashlib.sha256(data).hexdigest(),
        tuple(_grant(table, line) for table, line in read["grant"]),
        tuple(_quorum(table, line) for table, line in read["quorum"]),
    )


def _headers(text: str) -> dict[str, list[int]]:
    """Line numbers of the headers; none if a string could hide one (GRANT_SHAPE follows)."""
    found: dict[str, list[int]] = {kind: [] for kind in _TABLES}
    if '"""' in text or "'''" in text:
        return found
    # TOML ends lines with LF or CR LF only, while str.splitlines knows several more.
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _HEADER.match(line.rstrip("\r")):
            found[match[1]].append(number)
    return found


def _read_table(
    kind: str, index: int, table: Any, line: int
) -> tuple[ScopeTable | None, list[Finding]]:
    name = table.get("name") if isinstance(table, dict) else None
    prefix = f"line {line}, {kind} {name!r}: "
    try:
        read = _TABLES[kind].model_validate(table)
    except ValidationError as error:
        return None, from_validation(error, at=(kind, index), prefix=prefix, line=line)
    findings = [
        problem(reason, pointer(kind, index, *place), prefix + message, line=line)
        for reason, place, message in (*_bad_names(read), *_bad_scope(read), *_bad_rule(read))
    ]
    return read, findings


def _grant(table: ScopeTable, line: int) -> Grant:
    members: dict[str, Any] = {
        member: frozenset(value) if isinstance(value, tuple) else value
        for member, value in table
        if member in ScopeTable.model_fields
    }
    return Grant(line=line, **members)


def _quorum(table: QuorumTable, line: int) -> Quorum:
    return Quorum(QuorumRule(table.name, table.officers, table.groups), _grant(table, line))


Objection = tuple[str, tuple[str | int, ...], str]


def _bad_rule(table: ScopeTable) -> Iterator[Objection]:
    """Rules that nothing asks about, or that contradict themselves."""
    if not isinstance(table, QuorumTable):
        return
    if table.name == BASE:
        yield "NAME_INVALID", ("name",), f"{BASE!r} is the rule that officers set themselves"
    for index, method in enumerate(table.methods):
        if method in METHODS and method not in CALLS:
            words = f"no officers are asked about {method}; see docs/reference/policy.md"
            yield "QUORUM_NOT_ASKED", ("methods", index), words
    for group, count in table.groups.items():
        if not _NAME.fullmatch(group):
            yield "NAME_INVALID", ("groups", group), f"{group!r} is no group name"
        if count > table.officers:
            words = f"{count} of {group} are more than {table.officers} officers"
            yield "QUORUM_CONTRADICTORY", ("groups", group), words


def _bad_names(table: ScopeTable) -> Iterator[Objection]:
    """Names that could never match anything, which their author cannot have meant."""
    for index, principal in enumerate(table.principals):
        kind, _, rest = principal.partition(":")
        if kind not in PRINCIPAL_KINDS or not rest or not rest.isprintable() or " " in rest:
            words = 'is written "unix:NAME", "uri:spiffe://…" or "dns:NAME"'
            yield "PRINCIPAL_INVALID", ("principals", index), f"a principal {words}: {principal!r}"
    for index, method in enumerate(table.methods):
        if method not in METHODS:
            yield "METHOD_UNKNOWN", ("methods", index), f"unknown method {method!r}"
    for member, (listed, _) in _MEMBERS.items():
        for index, name in enumerate(getattr(table, listed)):
            well_formed = "*" not in name if member is Resource.ROLE else _NAME.fullmatch(name)
            if not name or not well_formed:
                words = f"{name!r} is no {member} name; there are no wildcards"
                yield "NAME_INVALID", (listed, index), words
    for listed in ("principals", "methods", "repositories", "roles", "keys", "tokens"):
        for name in _twice(getattr(table, listed)):
            yield "NAME_TWICE", (listed,), f"{listed} lists {name!r} twice"


def _bad_scope(table: ScopeTable) -> Iterator[Objection]:
    """Resources named for no method's sake, and resources that a method needs but none names."""
    methods = [method for method in table.methods if method in METHODS]
    for resource, (listed, flags) in _MEMBERS.items():
        scope = [member for member in (listed, *flags) if getattr(table, member)]
        needing = [method for method in methods if resource in METHODS[method]]
        if needing and not scope:
            words = f"{needing[0]} needs a {resource}: set {listed} or {' or '.join(flags)}"
            yield "SCOPE_MISSING", (listed,), words
        optional = any(resource in MAY_TOUCH.get(method, ()) for method in methods)
        if scope and not needing and not optional:
            words = f"{scope[0]} is set, but no method here touches a {resource}"
            yield "SCOPE_UNUSED", (scope[0],), words
        if flags[0] in scope and len(scope) > 1:
            yield "SCOPE_AMBIGUOUS", (listed,), f"{flags[0]} covers all: drop the others"


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _same_names(kind: str, names: Iterable[str]) -> list[Finding]:
    return [
        problem("NAME_TWICE", f"/{kind}", f"two {kind}s are named {name!r}; rename one")
        for name in _twice(names)
    ]


_TABLES: dict[str, type[ScopeTable]] = {"grant": GrantTable, "quorum": QuorumTable}
