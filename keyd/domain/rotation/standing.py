"""What a plan may look at: a repository as the ledger knows it at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyd.domain.keys import KeyState
from keyd.domain.payload import Payload


@dataclass(frozen=True)
class KeyFacts:
    """A key that is here, or held elsewhere by somebody who was named."""

    label: str
    fingerprint: str = ""
    state: KeyState = KeyState.ACTIVE
    token: str = ""
    scheme: str = ""
    holder: str = ""
    repository: str = ""
    tuf: bool = True


@dataclass(frozen=True)
class Standing:
    """Trusted payloads and delegators by role; keys here by name; people's keys by fingerprint.

    `versions` are the next version of each role, `pending` versions that are bound and not yet
    accepted, by role.
    """

    repository: str
    development: bool
    now: datetime
    trusted: Mapping[str, Payload]
    delegators: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, KeyFacts]
    holders: Mapping[str, KeyFacts] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    open_rotation: str = ""
    tokens: frozenset[str] = frozenset()

    def named(self, fingerprint: str) -> KeyFacts:
        """The key of this material, or what little is known of it."""
        for key in self.keys.values():
            if key.fingerprint == fingerprint:
                return key
        unknown = KeyFacts(label=fingerprint[:12], fingerprint=fingerprint, holder="elsewhere")
        return self.holders.get(fingerprint, unknown)
