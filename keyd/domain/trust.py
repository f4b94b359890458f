"""What keyd knows about a repository when it judges a payload: the input of the rules.

Everything here is data read from the ledger at one moment; `Basis` says which recorded state it
was read from, so that the reserving transaction can tell whether the judgement still holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from keyd.domain.payload import Payload

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


class RoleType(StrEnum):
    """The four values of a payload's `_type` (TUF 4.2)."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


def type_of_role(role: str) -> RoleType:
    """The payload type a role's metadata has: its own name, or targets when delegated."""
    return RoleType(role) if role in TOP_LEVEL else RoleType.TARGETS


class RepositoryState(StrEnum):
    """BOOTSTRAP until root 1 has its threshold and is pinned."""

    BOOTSTRAP = "BOOTSTRAP"
    ACTIVE = "ACTIVE"


class KeyIdFormula(StrEnum):
    """How a key id is derived from the key object (rule R5; TUF 4.3)."""

    THREE_MEMBERS = "three-members"
    WHOLE_OBJECT = "whole-object"
    EITHER = "either"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class RoleRules:
    """The settable levels (rules marked P) of one role; `default_rules` gives the safe ones.

    Windows are whole seconds from the time of signing to `expires`. `payload_max_bytes` caps the
    canonical payload (rule A8).
    """

    expiry_min_s: int = 0
    expiry_max_s: int = 400 * 86_400
    payload_max_bytes: int = 3_750_000
    version_step_max: int = 1
    threshold_floor: int = 1
    require_spare_key: bool = False
    keyid_formula: KeyIdFormula = KeyIdFormula.THREE_MEMBERS
    allow_online_key_in_offline_role: bool = False
    allow_shorter_root_expiry: bool = False
    allow_expired_trusted_root: bool = False
    allow_resigned_expiry_only: bool = False
    extra_members: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeySet:
    """One delegator's word on one role: listed keys and how many of them must sign.

    `fingerprints` maps each listed key id to the SHA-256 (hex) of its SubjectPublicKeyInfo. Votes
    count once per fingerprint, however many key ids carry it (GHSA-3633-5h82-39pq).
    `delegator` is e.g. "root:4" or "bootstrap": who says so.
    """

    delegator: str
    threshold: int
    fingerprints: Mapping[str, str]

    def reached(self, signed: frozenset[str]) -> bool:
        """Whether signatures by the key materials `signed` meet the threshold."""
        return self.missing(signed) == 0

    def missing(self, signed: frozenset[str]) -> int:
        """How many further signatures are needed."""
        return max(0, self.threshold - len(signed & set(self.fingerprints.values())))


@dataclass(frozen=True)
class FileFacts:
    """Length in bytes and hashes (algorithm → lower-case hex) of a published metadata file."""

    length: int
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class KnownVersion:
    """One recorded version of one role: reserved, perhaps accepted, perhaps with file facts."""

    role: str
    version: int
    digest: str
    accepted: bool
    file: FileFacts | None = None


@dataclass(frozen=True)
class RoleView:
    """The recorded state of the role that is to be signed.

    `high_water` is the highest version ever reserved or imported in `epoch` (0: none).
    `trusted` is the newest accepted payload. `delegators` are (role name, newest accepted payload)
    of every targets role that delegates this one; empty for top-level roles.
    """

    name: str
    epoch: int
    high_water: int
    rules: RoleRules
    trusted: Payload | None = None
    delegators: tuple[tuple[str, Payload], ...] = ()


@dataclass(frozen=True)
class Basis:
    """Revisions of the recorded state a judgement rests on.

    `repository_revision` counts every change of the repository (None: only the roles matter).
    """

    repository_revision: int | None
    role_revisions: Mapping[str, int]


@dataclass(frozen=True)
class RepositoryView:
    """All that the rules may look at besides the payload itself.

    `bootstrap` is the intended first root (while in BOOTSTRAP). `trusted_root` is the newest
    accepted root. `known` holds the versions that the payload refers to, by (role, version);
    `snapshot` and `targets` are the newest accepted payloads of those roles. `foreign_material` maps fingerprints to the other repository that owns them. `unusable` are
    fingerprints of keys held here that can sign no more (DESTROYED, COMPROMISED).
    """

    name: str
    state: RepositoryState
    development: bool
    imported: bool
    role: RoleView
    basis: Basis
    bootstrap: KeySet | None = None
    trusted_root: Payload | None = None
    snapshot: Payload | None = None
    targets: Payload | None = None
    known: Mapping[tuple[str, int], KnownVersion] = field(default_factory=dict)
    foreign_material: Mapping[str, str] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    in_recovery: bool = False


@dataclass(frozen=True)
class SigningKey:
    """The key that is asked to sign: its name here and the SHA-256 (hex) of its public key."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Question:
    """One payload to be judged for one role, at one time.

    `key` is None when only the payload is checked. `confirmed_change` is the digest of the root
    difference that the caller has seen (rule R10), 64 hex digits, or empty.
    """

    payload: Payload
    now: datetime
    key: SigningKey | None = None
    confirmed_change: str = ""
