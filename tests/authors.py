"""Writing the payloads of a TUF repository whose keys are known by name; nothing is signed here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

Signed = dict[str, Any]


class Writer:
    """Payloads of one repository; `tuf_key` finds a key's (TUF key id, key object) by its name."""

    def __init__(
        self, now: Callable[[], datetime], tuf_key: Callable[[str], tuple[str, Signed]]
    ) -> None:
        self._now = now
        self._tuf_key = tuf_key

    def common(self, kind: str, version: int, days: float) -> Signed:
        expires = (self._now() + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"_type": kind, "spec_version": "1.0.31", "version": version, "expires": expires}

    def key_objects(self, *names: str) -> Signed:
        return dict(self._tuf_key(name) for name in names)

    def listing(self, threshold: int, *names: str) -> Signed:
        return {"keyids": list(self.key_objects(*names)), "threshold": threshold}

    def root(self, version: int = 1, days: float = 365, **roles: tuple[int, list[str]]) -> Signed:
        """Root metadata; `roles` override (threshold, key names) of the usual ones."""
        given = {
            "root": (2, ["root-1", "root-2", "root-3"]),
            "targets": (1, ["targets"]),
            "snapshot": (1, ["snapshot"]),
            "timestamp": (1, ["timestamp"]),
            **roles,
        }
        names = sorted({name for _, listed in given.values() for name in listed})
        return {
            **self.common("root", version, days),
            "consistent_snapshot": True,
            "keys": self.key_objects(*names),
            "roles": {role: self.listing(m, *listed) for role, (m, listed) in given.items()},
        }

    def targets(self, version: int = 1, days: float = 90, **members: Any) -> Signed:
        return {**self.common("targets", version, days), "targets": {}, **members}

    def delegating(self, version: int, **roles: tuple[int, list[str]]) -> Signed:
        """Targets that delegate `roles`, each all paths below its own name."""
        names = sorted({name for _, listed in roles.values() for name in listed})
        entries = [
            {
                "name": role,
                **self.listing(m, *listed),
                "paths": [f"{role}/*"],
                "terminating": False,
            }
            for role, (m, listed) in roles.items()
        ]
        delegations = {"keys": self.key_objects(*names), "roles": entries}
        return self.targets(version, delegations=delegations)

    def snapshot(self, version: int = 1, **versions: int) -> Signed:
        listed = {"targets": 1, **versions}
        meta = {f"{role}.json": {"version": number} for role, number in listed.items()}
        return {**self.common("snapshot", version, 7), "meta": meta}

    def timestamp(self, version: int = 1, snapshot: int = 1) -> Signed:
        meta = {"snapshot.json": {"version": snapshot}}
        return {**self.common("timestamp", version, 1), "meta": meta}
