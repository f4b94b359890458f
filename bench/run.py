"""One run: set up, measure in rounds, tear down."""

from __future__ import annotations

from collections.abc import Callable

from bench import parts, variants
from bench.figures import Figures
from bench.plan import Plan
from bench.stand import new_place, standing

_IN_ROUNDS = {
    "unary": parts.unary,
    "schemes": parts.schemes,
    "batch": parts.batch,
    "pep458": parts.pep458,
}
_APART = {
    "memory": variants.memory,
    "keys": variants.keys,
    "slow": variants.slow,
    "growth": parts.growth,
}
PARTS = ("start", *_IN_ROUNDS, *_APART)


def measure(plan: Plan, wanted: frozenset[str], keep: Callable[[Figures], None]) -> Figures:
    """Everything in `wanted`, and the floors of what is measured in rounds.

    `keep` is given what is known after each part and round: a long run may be cut.
    """
    figures = Figures()
    if "start" in wanted:
        _say("start")
        with new_place() as place:
            parts.start(plan, place, figures)
        keep(figures)
    if wanted & _IN_ROUNDS.keys():
        _rounds(plan, wanted, figures, keep)
    for name, part in _APART.items():
        if name in wanted:
            _say(name)
            part(plan, figures)
            keep(figures)
    return figures


def _rounds(
    plan: Plan, wanted: frozenset[str], figures: Figures, keep: Callable[[Figures], None]
) -> None:
    with new_place() as place, standing(plan, place, figures) as bench:
        for number in range(plan.rounds):
            _say(f"round {number + 1} of {plan.rounds}")
            parts.floors(bench)
            for name, part in _IN_ROUNDS.items():
                if name in wanted:
                    part(bench)
            figures.numbers["resident_mb"] = bench.daemon.resident_mb()
            keep(figures)


def _say(words: str) -> None:
    print(words, flush=True)
