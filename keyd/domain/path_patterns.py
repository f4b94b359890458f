"""Matching many target paths with many shell-style patterns, at a cost known before (TUF 4.5).

Patterns match part by part: `*` does not cross a slash. Both sides may come from somebody who
means ill, so what has no wildcards is looked up, the rest is found by its leading parts without
wildcards, and `effort` says how much is left to compare.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from functools import cached_property, partial
from operator import eq

_WILD = re.compile(r"[*?[]")
# Compiling a part takes as long as about so many comparisons.
_COMPILE_EFFORT = 200

_Parts = tuple[str, ...]
_Matcher = Callable[[str], object]


class PathPatterns:
    """Whether a path matches one of the patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        distinct = frozenset(patterns)
        self._literal = frozenset(each for each in distinct if not _WILD.search(each))
        wild = [tuple(each.split("/")) for each in distinct - self._literal]
        # By number of parts and leading parts without wildcards: what follows these.
        self._rests: defaultdict[tuple[int, _Parts], list[_Parts]] = defaultdict(list)
        for parts in wild:
            lead = next(place for place, part in enumerate(parts) if _WILD.search(part))
            self._rests[len(parts), parts[:lead]].append(parts[lead:])
        self._leads: defaultdict[int, set[int]] = defaultdict(set)
        for count, leading in self._rests:
            self._leads[count].add(len(leading))

    def __call__(self, path: str) -> bool:
        if path in self._literal:
            return True
        parts = path.split("/")
        count = len(parts)
        for lead in self._leads.get(count, ()):
            if self._matches((count, tuple(parts[:lead])), parts[lead:]):
                return True
        return False

    def effort(self, paths: int) -> int:
        """How many comparisons so many paths may take, at most; each well below a microsecond."""
        per_path, once = self._efforts
        return per_path * paths + once

    @cached_property
    def _efforts(self) -> tuple[int, int]:
        """For each path, and once."""
        largest: defaultdict[tuple[int, int], int] = defaultdict(int)
        for (count, leading), rests in self._rests.items():
            place = count, len(leading)
            largest[place] = max(largest[place], len(rests))
        per_path: defaultdict[int, int] = defaultdict(int)
        for (count, _), size in largest.items():
            per_path[count] += size
        return max(per_path.values(), default=0), len(self._odd) * _COMPILE_EFFORT

    @cached_property
    def _odd(self) -> frozenset[str]:
        """Parts that have to be compiled."""
        return frozenset(
            part
            for rests in self._rests.values()
            for rest in rests
            for part in rest
            if part != "*" and _WILD.search(part)
        )

    @cached_property
    def _compiled(self) -> Mapping[str, _Matcher]:
        return {part: re.compile(translate(part)).match for part in self._odd}

    @cached_property
    def _ready(self) -> dict[tuple[int, _Parts], list[Sequence[tuple[int, _Matcher]]]]:
        return {}

    def _matches(self, place: tuple[int, _Parts], rest: Sequence[str]) -> bool:
        ready = self._ready.get(place)
        if ready is None:
            if place not in self._rests:
                return False
            ready = self._ready[place] = [self._demands(each) for each in self._rests[place]]
        for demands in ready:
            for number, matches in demands:
                if not matches(rest[number]):
                    break
            else:
                return True
        return False

    def _demands(self, rest: _Parts) -> Sequence[tuple[int, _Matcher]]:
        """What each part must match that may not be anything, with its number."""
        return [(number, self._matcher(part)) for number, part in enumerate(rest) if part != "*"]

    def _matcher(self, part: str) -> _Matcher:
        return self._compiled.get(part) or partial(eq, part)
