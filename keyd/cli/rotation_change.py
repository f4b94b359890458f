"""The options that say what a rotation changes, and the message they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from keyd.cli.metadata_files import read_file
from keyd_client.messages import NewKey, RoleChange, RotationChange, RotationKind

Command = TypeVar("Command", bound=Callable[..., Any])

KINDS = tuple(
    name.removeprefix("ROTATION_KIND_").lower().replace("_", "-")
    for name in RotationKind.keys()  # noqa: SIM118 - an enum wrapper is no mapping
    if not name.endswith("UNSPECIFIED")
)
_DAY_S = 86_400
# Whose keys a kind is about when no role is named.
_ROLES = {
    "snapshot": ("snapshot",),
    "timestamp": ("timestamp",),
    "shared-online": ("snapshot", "timestamp"),
    "targets": ("targets",),
    "root": ("root",),
    "renew-root": (),
    "delegated": (),
    "emergency": (),
    "fast-forward": (),
}
_OPTIONS = (
    click.argument("kind", type=click.Choice(KINDS)),
    click.option("--repository", default="", help="Repository; default: the profile's."),
    click.option(
        "--role",
        "roles",
        multiple=True,
        help="Role, or name prefix of hash bins; default: the kind's (repeatable).",
    ),
    click.option(
        "--add",
        multiple=True,
        metavar="[ROLE:]KEY[@TOKEN]",
        help="Key that enters; made on TOKEN if there is none of that name (repeatable).",
    ),
    click.option(
        "--add-elsewhere",
        multiple=True,
        metavar="[ROLE:]HOLDER/LABEL=FILE",
        help="Key that a person holds elsewhere: FILE has its TUF key object (repeatable).",
    ),
    click.option(
        "--remove",
        multiple=True,
        metavar="[ROLE:]KEY",
        help="Key that leaves: name, key id or fingerprint (repeatable).",
    ),
    click.option("--replace", is_flag=True, help="All present keys of the roles leave."),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        metavar="[ROLE:]NUMBER",
        help="New threshold (repeatable).",
    ),
    click.option("--scheme", default="", help="Scheme of keys that are made; default: P-256."),
    click.option(
        "--compromised",
        multiple=True,
        metavar="KEY",
        help="Key that is stolen: it stops signing at once (repeatable).",
    ),
    click.option(
        "--lower",
        multiple=True,
        metavar="ROLE=VERSION",
        help="fast-forward: the version that a role goes on from, with the content of the one "
        "below (repeatable).",
    ),
    click.option("--root-days", type=click.IntRange(1), help="Days until the new root expires."),
    click.option("--reason", default="", help="Why, for the record."),
)


def change_options(command: Command) -> Command:
    """Everything that says what changes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass
class _Change:
    kind: str
    scheme: str
    roles: dict[str, RoleChange] = field(default_factory=dict)

    def of(self, text: str) -> tuple[list[RoleChange], str]:
        """The roles that an option is about, and what is left of its value."""
        role, colon, rest = text.partition(":")
        if colon:
            return [self.named(role)], rest
        if not self.roles:
            raise click.UsageError(f"say which role {text!r} is for: ROLE:{text}, or --role ROLE")
        return list(self.roles.values()), text

    def named(self, role: str) -> RoleChange:
        return self.roles.setdefault(role, RoleChange(role=role))


def change_of(given: dict[str, Any], repository: str) -> RotationChange:
    """The message of the options; `repository` where none was given. Raises: click.UsageError."""
    change = _Change(given["kind"], given["scheme"])
    for role in given["roles"] or _ROLES[change.kind]:
        change.named(role)
    for text in given["add"]:
        _add(change, text)
    for text in given["add_elsewhere"]:
        _add_elsewhere(change, text)
    for text in given["remove"]:
        holders, key = change.of(text)
        for role_change in holders:
            role_change.remove.append(key)
    for text in given["thresholds"]:
        holders, number = change.of(text)
        for role_change in holders:
            role_change.threshold = _number(number)
    if given["replace"]:
        for role_change in change.roles.values():
            role_change.remove.append("*")
    return RotationChange(
        kind=RotationKind.Value(f"ROTATION_KIND_{change.kind.upper().replace('-', '_')}"),
        repository=given["repository"] or repository,
        roles=change.roles.values(),
        compromised=given["compromised"],
        lower=dict(map(_lowered, given["lower"])),
        root_lifetime_s=(given["root_days"] or 0) * _DAY_S,
        reason=given["reason"],
    )


def _add(change: _Change, text: str) -> None:
    holders, rest = change.of(text)
    name, _, token = rest.partition("@")
    for role_change in holders:
        role_change.add.append(NewKey(name=name, token=token, scheme=change.scheme))


def _add_elsewhere(change: _Change, text: str) -> None:
    holders, rest = change.of(text)
    whose, equals, path = rest.partition("=")
    holder, slash, label = whose.partition("/")
    if not (equals and slash):
        raise click.UsageError(f"{text!r} is not of the form HOLDER/LABEL=FILE")
    key = read_file(Path(path)).decode("utf-8", "replace")
    for role_change in holders:
        role_change.add.append(NewKey(name=label, holder=holder, tuf_key_json=key))


def _lowered(text: str) -> tuple[str, int]:
    role, _, version = text.partition("=")
    return role, _number(version)


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise click.UsageError(f"{text!r} is no whole number from 1 on")
    return int(text)
