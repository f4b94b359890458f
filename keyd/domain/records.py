"""What the ledger remembers: plain records, one per thing that must never be forgotten.

Times are timezone-aware UTC. Digests are SHA-256 in 64 lower-case hex digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from keyd.domain.trust import FileFacts, KeySet, RepositoryState, RoleRules

R = TypeVar("R")


def altered(record: R, **changes: object) -> R:
    """As `dataclasses.replace` for the records of this module, many times as quick.

    Nothing checks that `changes` are members: for what happens at every signature, no more.
    """
    other = object.__new__(type(record))
    other.__dict__.update(record.__dict__, **changes)
    return other


@dataclass(frozen=True)
class LedgerIdentity:
    """Made once. `origin` is the C2SP checkpoint origin line; `development` is for ever."""

    ledger_id: str
    origin: str
    development: bool
    created_at: datetime


@dataclass(frozen=True)
class Repository:
    """A TUF repository. `intended_root` is who may sign root 1 (bootstrap only)."""

    name: str
    state: RepositoryState
    development: bool
    imported: bool
    created_at: datetime
    intended_root: KeySet | None = None
    revision: int = 0


@dataclass(frozen=True)
class Role:
    """One role of one repository.

    `epoch` advances only in a recorded fast-forward recovery. `high_water` is the highest version
    reserved or imported in that epoch; `trusted_version`/`trusted_digest` the newest accepted one
    (0 and "" when none). `rules` None: the defaults of the role's type.
    """

    repository: str
    name: str
    epoch: int = 0
    high_water: int = 0
    trusted_version: int = 0
    trusted_digest: str = ""
    rules: RoleRules | None = None
    revision: int = 0

    @property
    def trusts_older_epoch(self) -> bool:
        """Whether the trusted version is from before a recovery that lowered the mark.

        Within an epoch a version is only trusted once it has raised the mark.
        """
        return self.trusted_version > self.high_water


@dataclass(frozen=True)
class Delegation:
    """One role and one key that accepted metadata lists for it.

    `role` is a role name; for succinct hash bins (TAP 15) it is the name prefix, and `bit_length`
    (1 to 32, else 0) says that it covers prefix-0…0 to prefix-f…f, in hex of the usual width.
    """

    role: str
    fingerprint: str
    bit_length: int = 0


@dataclass(frozen=True)
class Material:
    """Key material of one repository; `uses` are top-level role names or "delegated"."""

    repository: str
    uses: frozenset[str]


class ReservationState(StrEnum):
    """RESERVED until the first signature, SIGNED after, ACCEPTED at the threshold."""

    RESERVED = "RESERVED"
    SIGNED = "SIGNED"
    ACCEPTED = "ACCEPTED"
    VOIDED = "VOIDED"


@dataclass(frozen=True)
class Reservation:
    """(repository, role, epoch, version) bound to one payload for ever.

    `required` is the trust state it was judged under: every set must reach its threshold before
    the payload counts as accepted, and later signers are checked against it.
    """

    repository: str
    role: str
    epoch: int
    version: int
    digest: str
    required: tuple[KeySet, ...]
    state: ReservationState
    leaf: int
    created_at: datetime


@dataclass(frozen=True)
class StoredSignature:
    """A verified signature over a reserved payload; `key` is "" if it was made elsewhere."""

    fingerprint: str
    key: str
    signature: bytes
    leaf: int
    made_at: datetime


@dataclass(frozen=True)
class VersionRecord:
    """A recorded version: reserved here or imported; `accepted` at its threshold."""

    repository: str
    role: str
    epoch: int
    version: int
    digest: str
    accepted: bool
    imported: bool = False
    file: FileFacts | None = None


@dataclass(frozen=True)
class LostVersions:
    """Versions first..last that a repair took for used: an anchor knew of them, the ledger did not.

    `digest` is the payload of version `last` as far as the anchor told, else ""; `leaf` the entry
    of the repair.
    """

    repository: str
    role: str
    epoch: int
    first: int
    last: int
    digest: str
    leaf: int

    def digest_of(self, version: int) -> str:
        """The payload that one of the versions is known to have had, or ""."""
        return self.digest if version == self.last else ""


class IntentState(StrEnum):
    """How the token call ended that an intent leaf announced."""

    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    ABANDONED = "ABANDONED"


class IntentKind(StrEnum):
    """What the token was about to be asked for."""

    SIGN = "sign"
    SIGN_OPAQUE = "sign_opaque"
    GENERATE = "generate"
    DESTROY = "destroy"


@dataclass(frozen=True)
class Intent:
    """A token call that was announced in the log; `leaf` is the announcing leaf's index."""

    leaf: int
    kind: IntentKind
    key: str
    subject: str
    digest: str
    state: IntentState


@dataclass(frozen=True)
class RequestRecord:
    """A client's request id with the digest of the whole request body, for idempotency."""

    principal: str
    request_id: str
    body_digest: str
    outcome: str
    at: datetime


@dataclass(frozen=True)
class OpaqueSignature:
    """Bytes keyd does not understand, bound to a key; `signature` is None while only reserved."""

    key: str
    digest: str
    signature: bytes | None
    leaf: int
    made_at: datetime


@dataclass(frozen=True)
class TokenIdentity:
    """What a token said of itself when it was first opened."""

    token: str
    serial: str
    label: str
    manufacturer: str
    model: str


@dataclass(frozen=True)
class PinAttempt:
    """A PIN about to be, or having been, presented. `credential` is a random id, never a hash."""

    token: str
    credential: str
    rejected: bool
    at: datetime
    details: dict[str, str] = field(default_factory=dict)
