"""Rules G5 and G6: names that are safe as file names and carry no version or hash prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keyd.domain.pointer import Path
from keyd.domain.rules.objections import invalid
from keyd.domain.rules.references import role_of
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import Finding

# `2147483647.<role>.json` has to fit into the 255 bytes of a Linux file name.
_MAX_BYTES = 255 - len(f"{2**31 - 1}..json")
_VERSION_PREFIX = re.compile(r"(\d+)\.(.+)", re.ASCII | re.DOTALL)
_HASH_PREFIX = re.compile(r"([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})\..", re.ASCII)


def check_role_name(role: str, path: Path) -> Iterator[Finding]:
    """G5: the role's file stays in its directory (TUF 6.2.1)."""
    unsafe = not role or any(part in role for part in ("/", "\\", ".."))
    if unsafe or len(role.encode()) > _MAX_BYTES:
        message = f"a role name has no slash, no `..`, and 1 to {_MAX_BYTES} bytes"
        yield invalid("G5", "ROLE_NAME_UNSAFE", path, message)


def check_meta_name(name: str, version: int, path: Path) -> Iterator[Finding]:
    """G5 and G6 for one entry of a snapshot's `meta`."""
    role = role_of(name)
    if role == name:
        message = "entries are file names: the role's name and `.json`"
        yield invalid("G5", "ROLE_NAME_UNSAFE", path, message)
        return
    yield from check_role_name(role, path)
    if _is_versioned(role, version):
        message = "write the name without version or hash: clients add them (TUF 6.2.1)"
        yield invalid("G6", "VERSIONED_REFERENCE", path, message)


def _is_versioned(role: str, version: int) -> bool:
    if _HASH_PREFIX.match(role):
        return True
    match = _VERSION_PREFIX.fullmatch(role)
    # A delegated role may be called "2.5"; its own version in front is a mistake.
    return match is not None and (match[2] in TOP_LEVEL or match[1].lstrip("0") == str(version))
