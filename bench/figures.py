"""Everything that was measured, by name and round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.timing import Timing, middle

# What one round's timings make of one another, e.g. a ratio.
Formula = Callable[[Callable[[str], Timing]], float]


class Figures:
    """Series of timings such as "unary/unix/32", one per round, and plain numbers."""

    def __init__(
        self,
        series: Mapping[str, Sequence[Timing]] | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        self.series = {name: list(timings) for name, timings in (series or {}).items()}
        self.numbers = dict(numbers or {})

    def add(self, name: str, timing: Timing) -> None:
        """Take up this round's timing."""
        self.series.setdefault(name, []).append(timing)

    def __contains__(self, name: str) -> bool:
        return name in self.series or name in self.numbers

    def middle(self, name: str) -> Timing:
        """The median over the rounds."""
        return middle(self.series[name])

    def over_rounds(self, needed: Sequence[str], formula: Formula) -> float | None:
        """The median of a formula within each round; None if a part was not measured.

        Other programs slow the machine down for a while: what is compared was measured close
        together.
        """
        if any(name not in self.series for name in needed):
            return None
        rounds = min(len(self.series[name]) for name in needed)
        return median(
            formula(lambda name, number=number: self.series[name][number])  # type: ignore[misc]
            for number in range(rounds)
        )
