"""What an officer's tool says of one operation, and how it refuses what does not fit together."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.cli.output import plain
from keyd.domain.digest_words import digest_words
from keyd.errors import InvalidRequest

_WORDS_IN_A_ROW = 4


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

    def lines(self) -> tuple[str, ...]:
        """For the person who decides."""
        indented = tuple(f"  {plain(line)}".rstrip() for line in self.changes) or ("  (nothing)",)
        told = (f"{plain(self.title)}:", *indented) if self.title else ()
        return (*told, *(f"WARNING    {plain(each)}" for each in self.doubts))


def digest_lines(digest: bytes) -> tuple[str, ...]:
    """A digest in hex, and in words that are numbered by their rows, for reading aloud."""
    text, words = digest.hex(), digest_words(digest)
    grouped = " ".join(text[start : start + 8] for start in range(0, len(text), 8))
    rows = (
        f"  words {first + 1:>2}  {'  '.join(words[first : first + _WORDS_IN_A_ROW])}"
        for first in range(0, len(words), _WORDS_IN_A_ROW)
    )
    return (f"SHA-256    {grouped}", *rows)


def same(own: object, stated: object, what: str) -> None:
    """Raises: InvalidRequest (DIGEST_MISMATCH) unless what was told is what was computed here."""
    if own != stated:
        raise mismatch(f"its {what} is {own}, where {stated} is stated")


def mismatch(why: str) -> InvalidRequest:
    """What no officer may put their name to."""
    return InvalidRequest("DIGEST_MISMATCH", f"do not approve this: {plain(why)}")
