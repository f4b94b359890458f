"""What an officer's tool says of one operation, and how it refuses what does not fit together."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.cli.output import plain
from keyd.errors import InvalidRequest


@dataclass(frozen=True)
class Compared:
    """`title` stands above `changes`, "" where there is nothing to compare.

    `digest` is what officers compare by voice, b"": the operation's. `doubts` say why `changes` may
    not be all of them.
    """

    title: str = ""
    changes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    digest: bytes = b""


def same(own: object, stated: object, what: str) -> None:
    """Raises: InvalidRequest (DIGEST_MISMATCH) unless what was told is what was computed here."""
    if own != stated:
        raise mismatch(f"its {what} is {own}, where {stated} is stated")


def mismatch(why: str) -> InvalidRequest:
    """What no officer may put their name to."""
    return InvalidRequest("DIGEST_MISMATCH", f"do not approve this: {plain(why)}")
