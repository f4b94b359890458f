"""A change as it was asked for: keys by whatever name somebody knows them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WantedKey:
    """A key that enters: one here by `name`, made on `token` if need be, or `holder`'s elsewhere.

    `key_object` is the TUF key object of a key elsewhere, None of one here; `scheme` "" is P-256.
    """

    name: str
    token: str = ""
    scheme: str = ""
    holder: str = ""
    key_object: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class WantedRole:
    """What changes about one role.

    `remove` are names of keys here, TUF key ids, fingerprints in hex, or "*" for all present keys;
    `threshold` 0 leaves it as it is.
    """

    role: str
    add: tuple[WantedKey, ...] = ()
    remove: tuple[str, ...] = ()
    threshold: int = 0


@dataclass(frozen=True)
class Wanted:
    """A whole change; `kind` is one of `RotationKind`, `lower` maps roles to versions."""

    kind: str
    repository: str
    roles: tuple[WantedRole, ...] = ()
    compromised: tuple[str, ...] = ()
    lower: Mapping[str, int] = field(default_factory=dict)
    root_lifetime_s: int = 0
    reason: str = ""
