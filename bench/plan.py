"""How long each part is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Every part is measured once per round, floors beside what is compared with them."""

    name: str
    rounds: int
    call_s: float
    raw_s: float
    bins: int
    starts: int
    growth: tuple[int, ...]


QUICK = Plan(
    name="quick", rounds=3, call_s=0.8, raw_s=0.25, bins=2048, starts=3, growth=(1_000, 10_000)
)
FULL = Plan(
    name="full",
    rounds=5,
    call_s=2.0,
    raw_s=1.0,
    bins=16_384,
    starts=10,
    growth=(1_000, 10_000, 100_000, 1_000_000),
)
