"""A change of keys and thresholds, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RotationKind(StrEnum):
    """What a change is meant for; the change itself says all the rest."""

    SNAPSHOT = "SNAPSHOT"
    TIMESTAMP = "TIMESTAMP"
    SHARED_ONLINE = "SHARED_ONLINE"
    TARGETS = "TARGETS"
    DELEGATED = "DELEGATED"
    ROOT = "ROOT"
    EMERGENCY = "EMERGENCY"
    FAST_FORWARD = "FAST_FORWARD"
    RENEW_ROOT = "RENEW_ROOT"


@dataclass(frozen=True)
class NewKey:
    """A key that enters a role.

    Of this daemon if `holder` is "": with the `fingerprint` of a key that is here already, or to be
    generated on `token` with `scheme`. Else a person's, with `key_object`.
    """

    label: str
    holder: str = ""
    key_object: Mapping[str, Any] | None = None
    token: str = ""
    scheme: str = "ecdsa-sha2-nistp256"
    fingerprint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data; a key object only of keys elsewhere, a fingerprint only of keys here."""
        found: dict[str, Any] = {"label": self.label}
        if self.holder:
            return {**found, "holder": self.holder, "key": dict(self.key_object or {})}
        known = {"fingerprint": self.fingerprint} if self.fingerprint else {}
        return {**found, "token": self.token, "scheme": self.scheme, **known}


@dataclass(frozen=True)
class RoleChange:
    """What changes about one role; `remove` are fingerprints, `threshold` None leaves it.

    `role` may be the name prefix of hash bins, which share one list (TAP 15).
    """

    role: str
    add: tuple[NewKey, ...] = ()
    remove: tuple[str, ...] = ()
    threshold: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "role": self.role,
            "add": [key.to_json() for key in self.add],
            "remove": sorted(self.remove),
            "threshold": self.threshold,
        }


@dataclass(frozen=True)
class ChangeSet:
    """Everything that one rotation changes.

    `compromised` are fingerprints; `lower` maps roles to the versions that they go on from;
    `root_expires_s` is the new root's lifetime in seconds, 0 the usual one.
    """

    kind: RotationKind
    repository: str
    changes: tuple[RoleChange, ...] = ()
    compromised: tuple[str, ...] = ()
    lower: Mapping[str, int] = field(default_factory=dict)
    root_expires_s: int = 0
    reason: str = ""

    def of(self, role: str) -> RoleChange | None:
        """What changes about a role."""
        return next((change for change in self.changes if change.role == role), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": self.kind.value,
            "repository": self.repository,
            "changes": [change.to_json() for change in self.changes],
            "compromised": sorted(self.compromised),
            "lower": dict(self.lower),
            "root_expires_s": self.root_expires_s,
            "reason": self.reason,
        }


def change_set_of(document: Mapping[str, Any]) -> ChangeSet:
    """The inverse of `ChangeSet.to_json`."""
    return ChangeSet(
        kind=RotationKind(document["kind"]),
        repository=document["repository"],
        changes=tuple(_role_change(change) for change in document["changes"]),
        compromised=tuple(document["compromised"]),
        lower=document["lower"],
        root_expires_s=document["root_expires_s"],
        reason=document["reason"],
    )


def _role_change(document: Mapping[str, Any]) -> RoleChange:
    return RoleChange(
        role=document["role"],
        add=tuple(_new_key(key) for key in document["add"]),
        remove=tuple(document["remove"]),
        threshold=document["threshold"],
    )


def _new_key(document: Mapping[str, Any]) -> NewKey:
    if "holder" in document:
        return NewKey(document["label"], document["holder"], document["key"])
    return NewKey(
        document["label"],
        token=document["token"],
        scheme=document["scheme"],
        fingerprint=document.get("fingerprint", ""),
    )
