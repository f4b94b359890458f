"""What the ledger remembers of rotations. Times are UTC, digests SHA-256 in lower-case hex."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RotationState(StrEnum):
    """RUNNING until its files are rehearsed and released (READY), RETIRING while old keys wait."""

    RUNNING = "RUNNING"
    READY = "READY"
    RETIRING = "RETIRING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"

    @property
    def is_open(self) -> bool:
        """Whether it still changes the repository's roles: then no other rotation may begin."""
        return self in (RotationState.RUNNING, RotationState.READY)


@dataclass(frozen=True)
class Rotation:
    """A plan that was started.

    `plan` are the bytes that `plan_digest` is of; `leaf` is the entry that announced it. Old keys
    are deactivated `grace_s` seconds after `published_at`.
    """

    name: str
    repository: str
    kind: str
    plan: bytes
    plan_digest: str
    creator: str
    grace_s: int
    leaf: int
    created_at: datetime
    state: RotationState = RotationState.RUNNING
    published_at: datetime | None = None


@dataclass(frozen=True)
class SignedVersion:
    """A version that a key has signed; `leaf` is the entry that tells of the signature."""

    fingerprint: str
    repository: str
    role: str
    epoch: int
    version: int
    digest: str
    accepted: bool
    leaf: int


@dataclass(frozen=True)
class RotationFile:
    """The version that one signing step of a rotation's plan was bound to.

    `digest` is its payload's, `leaf` the entry that reserved it. `content` is the whole file, None
    until it is complete; from then on it never changes, as other files name it by hash.
    """

    rotation: str
    step: int
    repository: str
    role: str
    epoch: int
    version: int
    digest: str
    leaf: int
    content: bytes | None = None

    @property
    def described(self) -> str:
        """Role, version and SHA-256 of the whole file, as the log names it."""
        return f"{self.role} {self.version} {hashlib.sha256(self.content or b'').hexdigest()}"
