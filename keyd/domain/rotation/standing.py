"""What a plan may look at: a repository as the ledger knows it at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyd.domain import public_keys
from keyd.domain.delegations import lists_under
from keyd.domain.keys import KeyState
from keyd.domain.payload import Payload
from keyd.domain.rotation.changes import NewKey
from keyd.domain.trust import TOP_LEVEL, KeySet

# The holder of keys of which nothing is known but that they are not here.
ELSEWHERE = "elsewhere"


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

    `next_root` is root's next version, `pending` are versions that are bound and not yet accepted,
    by role. `imported`: it was registered from published roots, which are as they are.
    `unseen` are roles that have metadata which is not at hand. `starts` are the versions whose
    content roles that are lowered go on with, 0 where none is recorded. `bins` are the published
    hash bins by their name prefix, in order; `delegators` has each of them and the prefix.
    `officers`: some are enrolled, and agree to what is started. `former` are the fingerprints of
    keys that roots have ever listed, by role; looked at where versions are lowered.
    """

    repository: str
    development: bool
    now: datetime
    trusted: Mapping[str, Payload]
    delegators: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, KeyFacts]
    holders: Mapping[str, KeyFacts] = field(default_factory=dict)
    next_root: int = 1
    pending: Mapping[str, int] = field(default_factory=dict)
    open_rotation: str = ""
    tokens: frozenset[str] = frozenset()
    imported: bool = False
    unseen: frozenset[str] = frozenset()
    starts: Mapping[str, int] = field(default_factory=dict)
    bins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    officers: bool = False
    former: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def lenient(self) -> bool:
        """Whether thresholds and spare keys are only warned about (rule R3)."""
        return self.development or self.imported

    def has(self, role: str) -> bool:
        """Whether there is metadata of the role that a change may have to replace."""
        return role in self.trusted or role in self.unseen

    def lists(self, role: str) -> list[KeySet]:
        """The present key lists of a role or prefix, one for each delegator that is trusted."""
        names = ("root",) if role in TOP_LEVEL else self.delegators.get(role, ())
        found = (self.trusted.get(name) for name in names)
        return [
            keys
            for payload in found
            if payload is not None
            for keys in lists_under(payload, role, "")
        ]

    def material(self, key: NewKey) -> str:
        """The fingerprint of a key that enters; "" of one that is yet to be generated."""
        if key.key_object is not None:
            return public_keys.fingerprint_of(key.key_object)
        known = self.keys.get(key.label)
        return known.fingerprint if known else ""

    def named(self, fingerprint: str) -> KeyFacts:
        """The key of this material, or what little is known of it."""
        for key in self.keys.values():
            if key.fingerprint == fingerprint:
                return key
        unknown = KeyFacts(label=fingerprint[:12], fingerprint=fingerprint, holder=ELSEWHERE)
        return self.holders.get(fingerprint, unknown)
