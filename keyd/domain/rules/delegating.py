"""Rules G3 to G5: what a targets payload delegates; its keys through R3 to R6."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyd.domain.delegations import MAX_BIT_LENGTH, key_table
from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.key_separation import check_content, check_delegated_keys, check_owners
from keyd.domain.rules.names import check_role_name
from keyd.domain.rules.objections import graded, invalid, refused
from keyd.domain.rules.role_keys import ListedKeys, Listing, check_role_keys
from keyd.domain.trust import TOP_LEVEL, Question, RepositoryView
from keyd.errors import Finding

_DELEGATIONS: Path = (TOP, "delegations")
_KEYS: Path = (_DELEGATIONS, "keys")
_ROLES: Path = (_DELEGATIONS, "roles")
_SUCCINCT: Path = (_DELEGATIONS, "succinct_roles")
_HASH_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def check_delegations(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """All rules on the member `delegations`, if there is one."""
    delegations = question.payload.signed.get("delegations")
    if delegations is None:
        return
    roles, succinct = delegations.get("roles", []), delegations.get("succinct_roles")
    if "roles" in delegations and succinct is not None:
        message = "write `roles` or `succinct_roles`, not both (TAP 15)"
        yield invalid("G3", "DELEGATION_SCOPE_INVALID", _DELEGATIONS, message)
    yield from _check_keys(question, view, roles, succinct)
    yield from _check_names(roles)
    yield from check_taken(
        question.payload, view.delegated_elsewhere, view.brought_back, imported=view.imported
    )
    for index, role in enumerate(roles):
        yield from _check_scope(role, (_ROLES, index))
    yield from _check_order(roles, view)
    yield from _check_bins(roles)
    if succinct is not None:
        yield from _check_succinct(succinct)


def _check_keys(
    question: Question, view: RepositoryView, roles: Sequence[Any], succinct: Any
) -> Iterator[Finding]:
    objects = question.payload.signed["delegations"]["keys"]
    listings = [
        _listing((_ROLES, index), role, view.rules_of(role["name"]))
        for index, role in enumerate(roles)
    ]
    if succinct is not None:
        # Any bin stands for all: they share one list.
        listings.append(_listing(_SUCCINCT, succinct, view.rules_of(succinct["name_prefix"])))
    keys = ListedKeys(_KEYS, objects, key_table(question.payload))
    yield from check_role_keys(keys, listings, view)
    yield from check_owners(question, view, _KEYS)
    yield from check_content(question, view, _KEYS)
    yield from check_delegated_keys(question, view, _KEYS)


def _listing(path: Path, entry: Mapping[str, Any], rules: Any) -> Listing:
    return Listing(path, entry["keyids"], entry["threshold"], rules)


def _check_names(roles: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, role in enumerate(roles):
        path, name = ((_ROLES, index), "name"), role["name"]
        if name in TOP_LEVEL:
            message = "top-level roles get their keys from root: choose another name"
            yield invalid("G3", "DELEGATION_NAME_INVALID", path, message)
        elif name in seen:
            message = "an earlier delegation has this name: each role is delegated once"
            yield invalid("G3", "DELEGATION_NAME_INVALID", path, message)
        seen.add(name)
        yield from check_role_name(name, path)


def check_taken(
    payload: Payload, elsewhere: Mapping[str, str], back: Mapping[str, str], *, imported: bool
) -> Iterator[Finding]:
    """A role delegated twice needs the keys of both delegators, so either could block the other.

    `elsewhere` and `back` are as in `RepositoryView`. Imported repositories are only warned:
    clients may know both ways already.
    """
    delegations = payload.signed.get("delegations", {})
    names = [
        (((_ROLES, index), "name"), role["name"])
        for index, role in enumerate(delegations.get("roles", ()))
    ]
    if "succinct_roles" in delegations:
        names.append(((_SUCCINCT, "name_prefix"), delegations["succinct_roles"]["name_prefix"]))
    for path, name in names:
        if name in elsewhere:
            owner = elsewhere[name]
            message = f"{owner!r} delegates this role: choose another name, or have it drop that"
            yield graded(imported, "G3", "DELEGATION_NAME_INVALID", path, message)
        elif name in back:
            message = (
                f"its metadata delegates {back[name]!r}, as another role does: choose another name"
            )
            yield graded(imported, "G3", "DELEGATION_NAME_INVALID", path, message)


def _check_scope(role: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    if ("paths" in role) == ("path_hash_prefixes" in role):
        message = "write one of `paths` and `path_hash_prefixes`"
        yield invalid("G3", "DELEGATION_SCOPE_INVALID", path, message)
    elif role.get("paths") == []:
        message = "no target path can match an empty list"
        yield graded(True, "G3", "DELEGATION_SCOPE_EMPTY", (path, "paths"), message)


def _check_order(roles: Sequence[Mapping[str, Any]], view: RepositoryView) -> Iterator[Finding]:
    """G3: clients search delegations in order, so order is priority (CVE-2024-47534)."""
    if view.role.trusted is None:
        return
    before = view.role.trusted.signed.get("delegations", {}).get("roles", ())
    old = [role["name"] for role in before]
    new = [role["name"] for role in roles]
    kept = set(old) & set(new)
    if [name for name in old if name in kept] != [name for name in new if name in kept]:
        message = "keep the order of delegations: to move one, drop it in one version, then add it"
        yield refused("G3", "DELEGATION_ORDER_CHANGED", _ROLES, message)


def _check_bins(roles: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """G4: hash bins are hexadecimal, of one length, disjoint and complete."""
    prefixes = [prefix for role in roles for prefix in role.get("path_hash_prefixes", ())]
    if not any("path_hash_prefixes" in role for role in roles):
        return
    lengths = {len(prefix) for prefix in prefixes}
    malformed = not all(_HASH_PREFIX.fullmatch(prefix) for prefix in prefixes)
    if malformed or len(lengths) != 1:
        message = "hash prefixes are lower-case hexadecimal, of one length up to 64"
    elif len(set(prefixes)) != len(prefixes):
        message = "two bins share a hash prefix"
    elif len(prefixes) != 16 ** lengths.pop():
        message = "some hash prefix belongs to no bin"
    else:
        return
    yield invalid("G4", "HASH_BINS_INCOMPLETE", _ROLES, message)


def _check_succinct(succinct: Mapping[str, Any]) -> Iterator[Finding]:
    """G4 and G5 for `succinct_roles` (TAP 15)."""
    if not 1 <= succinct["bit_length"] <= MAX_BIT_LENGTH:
        message = f"`bit_length` is 1 to {MAX_BIT_LENGTH}"
        yield invalid("G4", "SUCCINCT_ROLES_INVALID", (_SUCCINCT, "bit_length"), message)
    # The longest bin name is a hyphen and eight digits more.
    yield from check_role_name(f"{succinct['name_prefix']}-00000000", (_SUCCINCT, "name_prefix"))
