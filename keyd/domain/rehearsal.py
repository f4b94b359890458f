"""What a rehearsal plays: clients of earlier states meet files before they are released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyd.domain.trust import KeySet


@dataclass(frozen=True)
class SignedFile:
    """One metadata file byte for byte, as it will be published.

    `sets` are the key lists that must each reach their threshold. `parents` leads from targets to
    the role that delegates this one; empty for top-level roles. `is_bin`: it shares its list with
    other hash bins.
    """

    role: str
    version: int
    content: bytes
    sets: tuple[KeySet, ...]
    parents: tuple[str, ...] = ()
    is_bin: bool = False


@dataclass(frozen=True)
class Play:
    """The state before and the files that come.

    - `roots`: the published roots by version, without a gap; the lowest is the trust anchor.
    - `before`: the newest published file of other roles, as a client of that state keeps it.
    - `unchanged`: (version, content) of roles that are not signed anew; content None where the
      published file cannot be written again from what is recorded.
    - `released`: the new files, delegators first.
    """

    roots: Mapping[int, bytes]
    before: Mapping[str, bytes]
    unchanged: Mapping[str, tuple[int, bytes | None]]
    released: tuple[SignedFile, ...]
    consistent_snapshot: bool = True


@dataclass(frozen=True)
class Act:
    """One client: whether it had to reach the new state, whether it did, and what it said."""

    client: str
    must_reach: bool
    reached: bool
    said: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_promised(self) -> bool:
        return self.must_reach is self.reached

    def __str__(self) -> str:
        wanted = "reaches the new state" if self.must_reach else "is refused"
        outcome = "" if self.as_promised else f", but it is not so: {self.said or 'it got there'}"
        return f"{self.client} {wanted}{outcome}"
