"""Whether a stock client goes from one root to the next, by the two files alone."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain.rehearsal import Play, SignedFile
from keyd.rehearsal.clients import run, served


@dataclass(frozen=True)
class Meeting:
    """Whether a client can begin with the old root, took the new one, and what it said if not."""

    usable: bool
    took: bool
    said: str = ""


def meet(old: tuple[int, bytes], new: tuple[int, bytes]) -> Meeting:
    """Let python-tuf's client that holds root `old` meet root `new`: versions and whole files.

    Root alone is judged, and not whether it has expired: other roles are not asked for.
    """
    version, content = old
    play = Play(
        roots={version: content}, before={}, unchanged={"timestamp": (1, None)}, released=()
    )
    begun = run(play, served(play, ()), start=version, cached={}, visits=())
    if begun.said:
        return Meeting(usable=False, took=False, said=begun.said)
    released = (SignedFile("root", new[0], new[1], ()),)
    outcome = run(play, served(play, released), start=version, cached={}, visits=())
    took = outcome.holds.get("root") == new[1]
    return Meeting(usable=True, took=took, said=outcome.said)
