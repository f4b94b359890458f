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
from keyd.domain.sizes import PAYLOAD_MAX_BYTES

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


_DAY_S = 86_400
# Whatever is added to a time must stay a time.
EXPIRY_MAX_S = 36_525 * _DAY_S


@dataclass(frozen=True)
class RoleRules:
    """The settable levels (rules marked P) of one role; take the safe ones from `default_rules`.

    - `expiry_min_s`, `expiry_max_s`: seconds from the time of signing to `expires`, both inclusive,
      at most `EXPIRY_MAX_S`.
    - `payload_max_bytes`: cap of the canonical payload (A8).
    - `version_step_max`: how far a version may lie above the high-water mark (A4); 0: any distance.
      Root ignores it: R1 demands exactly one.
    - `threshold_floor`, `require_spare_key`: what the delegator must give this role (R3).
    - `keyid_formula`: how key ids in this role's own payload are derived (R5).
    - `allow_...`: the rule still reports, but as a warning.
    - `extra_members`: member names that the parser accepts besides TUF's and `x-...`.
    """

    expiry_min_s: int = 600
    expiry_max_s: int = 400 * _DAY_S
    payload_max_bytes: int = PAYLOAD_MAX_BYTES
    version_step_max: int = 100
    threshold_floor: int = 1
    require_spare_key: bool = False
    keyid_formula: KeyIdFormula = KeyIdFormula.EITHER
    allow_online_key_in_offline_role: bool = False
    allow_shorter_root_expiry: bool = False
    allow_expired_trusted_root: bool = False
    extra_members: tuple[str, ...] = ()


# The reasons for every number are in docs/reference/rules.md.
_DEFAULT_RULES = {
    RoleType.ROOT: RoleRules(
        expiry_min_s=3_600,
        payload_max_bytes=384_000,
        version_step_max=1,
        threshold_floor=2,
        require_spare_key=True,
    ),
    RoleType.TARGETS: RoleRules(),
    RoleType.SNAPSHOT: RoleRules(expiry_max_s=3_660 * _DAY_S, payload_max_bytes=1_500_000),
    RoleType.TIMESTAMP: RoleRules(
        expiry_min_s=60, expiry_max_s=31 * _DAY_S, payload_max_bytes=12_288
    ),
}


def default_rules(role: str) -> RoleRules:
    """The rules of a role that nobody has set; any name but the four top-level ones is delegated.

    Payload caps are three quarters of python-tuf's limits for files (TUF 5.3.3, 5.4.1, 5.5.1,
    5.6.1). Development and imported repositories have the same levels; some only warn there.
    """
    return _DEFAULT_RULES[type_of_role(role)]


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
        """How many further signatures are needed; a threshold below 1 is never reached."""
        listed = set(self.fingerprints.values())
        needed = self.threshold if self.threshold > 0 else len(listed) + 1
        return max(0, needed - len(signed & listed))


@dataclass(frozen=True)
class FileFacts:
    """Length in bytes and hashes (algorithm → lower-case hex) of a published metadata file."""

    length: int
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class KnownVersion:
    """One recorded version of one role: reserved, perhaps accepted, perhaps with file facts.

    `digest` is the payload's SHA-256 (hex); "" when only references to the version are known, so
    that nothing here binds it to bytes (rule S5). `file` is None until the file's length and
    hashes were imported.
    """

    role: str
    version: int
    digest: str
    accepted: bool
    file: FileFacts | None = None


@dataclass(frozen=True)
class RoleView:
    """The recorded state of the role that is to be signed.

    `high_water` is the highest version reserved or imported in `epoch` (0: none); for root, what
    officers voided above it is free again.
    `trusted` is the newest accepted payload. `delegators` are (role name, newest accepted payload)
    of every targets role that delegates this one; empty for top-level roles. `ancestry` says the
    same of those delegators that are delegated themselves, up to targets: without it the targets
    of a role delegated by a delegated role count as outside (rule G2).
    `pending`, of snapshot and timestamp, is the newest payload above `trusted` that is bound and
    may be accepted any time.
    """

    name: str
    epoch: int
    high_water: int
    rules: RoleRules
    trusted: Payload | None = None
    delegators: tuple[tuple[str, Payload], ...] = ()
    ancestry: Mapping[str, tuple[tuple[str, Payload], ...]] = field(default_factory=dict)
    pending: Payload | None = None


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

    - `development`: threshold floors and spare keys only warn (rule R3).
    - `imported`: so do key separation (R9), key ids (R5) and shortened root expiry (R11).
    - `bootstrap`: the intended first root, while in BOOTSTRAP.
    - `trusted_root`, `snapshot`, `targets`: newest accepted payloads of those roles. Only rules of
      snapshot and timestamp look at `snapshot`, only those of root at `targets`, and at
      `role.trusted` only those of timestamp and of targets payloads that delegate: elsewhere they
      may be None.
    - `role_rules`: rules set for other roles that the payload gives keys to; the others have
      `default_rules`.
    - `known`: recorded versions in each role's present epoch, by (role, version): those that
      `keyd.domain.rules.references` names, and the payload's own (role, version) unless that is
      above the mark.
    - `foreign_material`: fingerprints among `delegations.key_materials(payload)` and the signing
      key's that another repository owns, with that repository's name.
    - `other_content`: fingerprints among `delegations.key_materials(payload)` of keys held here
      that were made for other content than TUF, with that content.
    - `targets_material`, `delegated_material`: fingerprints that accepted metadata has ever listed
      for top-level targets, and for any delegated role. What `trusted_root` and `targets` list now
      is looked up in them and need not be repeated.
    - `delegated_elsewhere`: roles that the payload delegates anew and another role delegates
      already, with that role's name; bins by their name prefix.
    - `brought_back`: roles that the payload delegates anew, with a role that their own metadata
      delegates and that another one, or this payload, delegates as well; bins by their prefix.
    - `unusable`: fingerprints of keys held here that can sign no more (DESTROYED, COMPROMISED), and
      of those that sign only a root that does not list them (DEACTIVATED, and the payload does).
    - `compromised`: those of them that officers may still let sign a root that removes them.
    - `lowered`: roles that a recorded fast-forward recovery lowers, where the payload is one that
      the recovery itself has made: references to them, and no others, may go down.
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
    role_rules: Mapping[str, RoleRules] = field(default_factory=dict)
    known: Mapping[tuple[str, int], KnownVersion] = field(default_factory=dict)
    foreign_material: Mapping[str, str] = field(default_factory=dict)
    other_content: Mapping[str, str] = field(default_factory=dict)
    targets_material: frozenset[str] = frozenset()
    delegated_material: frozenset[str] = frozenset()
    delegated_elsewhere: Mapping[str, str] = field(default_factory=dict)
    brought_back: Mapping[str, str] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    compromised: frozenset[str] = frozenset()
    lowered: frozenset[str] = frozenset()

    def rules_of(self, role: str) -> RoleRules:
        """The rules in force for any role of this repository."""
        if role == self.role.name:
            return self.role.rules
        return self.role_rules.get(role) or default_rules(role)


@dataclass(frozen=True)
class SigningKey:
    """The key that is asked to sign: its name here and the SHA-256 (hex) of its public key.

    `roles` are the roles of this repository it is bound to; empty: all that list it.
    """

    name: str
    fingerprint: str
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Question:
    """One payload to be judged for one role, at one time.

    `now` is timezone-aware. `key` is None when only the payload is checked. `confirmed_change` is
    the digest of the root difference that the caller has seen (rule R10), 64 lower-case hex digits,
    or empty.
    """

    payload: Payload
    now: datetime
    key: SigningKey | None = None
    confirmed_change: str = ""
