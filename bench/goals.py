"""What is to be reached, as ratios within one run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Figures
from bench.timing import Timing
from bench.variants import SESSIONS, SIGNING_S

_CORES = 2
_OWN_MS = 0.6
_GROWN = re.compile(r"growth/\d+")


@dataclass(frozen=True)
class Goal:
    """One promise about speed: `measured` must be at least (or at most) `limit`.

    None: not measured in this run.
    """

    name: str
    measured: float | None
    limit: float
    aim: float | None = None
    at_most: bool = False
    unit: str = ""

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.measured is None:
            return "not measured"
        if self._holds(self.limit):
            return "aim reached" if self.aim is not None and self._holds(self.aim) else "reached"
        return "missed"

    def _holds(self, limit: float) -> bool:
        if self.measured is None:
            return False
        return self.measured <= limit if self.at_most else self.measured >= limit


def all_goals(figures: Figures) -> list[Goal]:
    """Every goal with what this run says about it."""
    return [
        *_unary(figures),
        *_batch(figures),
        *(_slow_scheme(figures, kind) for kind in ("rsa3072", "p384")),
        *_growth(figures),
        *_start(figures),
        *_variants(figures),
    ]


def _unary(figures: Figures) -> list[Goal]:
    alone, many = "unary/unix/1", "unary/unix/32"
    floors = [alone, "noop/unix/1", "raw/p256/1", "disk"]
    own_ms = figures.over_rounds(floors, lambda at: (at(alone).p50_us - _floor_us(at)) / 1e3)
    spread, crowd = (
        figures.over_rounds([name], lambda at, name=name: at(name).p99_us / at(name).p50_us)  # type: ignore[misc]
        for name in (alone, many)
    )
    rate = _rate(figures, many, "noop/unix/32")
    return [
        Goal("unary, 1 caller: p50 less no-op, raw, 2 commits", own_ms, _OWN_MS, None, True, "ms"),
        Goal("unary, 1 caller: p99 of p50", spread, 3.0, None, True),
        Goal("unary, 32 callers: rate of the no-op's", rate, 0.3, 0.5),
        Goal("unary, 32 callers: p99 of p50", crowd, 3.0, None, True),
    ]


def _floor_us(at: Callable[[str], Timing]) -> float:
    return at("noop/unix/1").p50_us + at("raw/p256/1").p50_us + 2 * at("disk").p50_us


def _batch(figures: Figures) -> list[Goal]:
    raw = "raw/p256/1"
    job = figures.over_rounds(["pep458", raw], lambda at: at(raw).rate / at("pep458").rate)
    return [
        Goal("batch of 1,024: rate of raw, 1 thread", _rate(figures, "batch/1024", raw), 0.2, 0.4),
        Goal("PEP 458 job: time of the raw signing time", job, 5.0, 3.0, True),
    ]


def _slow_scheme(figures: Figures, kind: str) -> Goal:
    """Against the cores' time: raw signature, both verifications and a no-op call."""
    call, raw, verify, rpc = f"unary/{kind}/32", f"raw/{kind}/1", f"verify/{kind}", "noop/unix/32"
    share = figures.over_rounds(
        [call, raw, verify, rpc],
        lambda at: (
            at(call).rate
            * (1 / at(raw).rate + 2 / at(verify).rate + _CORES / at(rpc).rate)
            / _CORES
        ),
    )
    return Goal(f"{kind}, 32 callers: of what the cores allow", share, 0.85)


def _growth(figures: Figures) -> list[Goal]:
    sizes = sorted(int(name.split("/")[1]) for name in figures.series if _GROWN.fullmatch(name))
    if len(sizes) < 2:
        return [Goal("10^6 records, of 10^3", None, 0.9)]
    first, last = (
        figures.over_rounds(
            [f"growth/{size}", f"growth/raw/{size}"],
            lambda at, size=size: at(f"growth/{size}").rate / at(f"growth/raw/{size}").rate,  # type: ignore[misc]
        )
        for size in (sizes[0], sizes[-1])
    )
    share = last / first if first and last else None
    return [Goal(f"{sizes[-1]:,} records: batch rate of that with {sizes[0]:,}", share, 0.9)]


def _variants(figures: Figures) -> list[Goal]:
    ideal = SESSIONS / SIGNING_S
    slow = figures.over_rounds(["slow/unary/64"], lambda at: at("slow/unary/64").rate / ideal)
    durable = [
        _rate(figures, f"memory/plain/{how}", f"memory/memory/{how}") for how in ("unary", "batch")
    ]
    many = [_rate(figures, f"keys/keys/{how}", f"keys/plain/{how}") for how in ("unary", "batch")]
    few = figures.numbers.get("keys/keys", 0)
    return [
        Goal("slow token, 8 sessions x 10 ms, 64 callers: of the ideal rate", slow, 0.9),
        Goal("durable ledger, 32 callers: of one in memory", durable[0], 0.85),
        Goal("durable ledger, batch: of one in memory", durable[1], 0.85),
        Goal(f"200 keys, 32 callers: of {few:.0f}", many[0], 0.95),
        Goal(f"200 keys, batch: of {few:.0f}", many[1], 0.95),
    ]


def _start(figures: Figures) -> list[Goal]:
    numbers = figures.numbers
    shown, bare = numbers.get("start/help_s"), numbers.get("start/bare_s")
    share = shown / bare if shown and bare else None
    return [
        Goal("keyd --help: time of a bare interpreter's", share, 8.0, None, True),
        Goal("ready to sign after", numbers.get("start/ready_s"), 1.0, None, True, "s"),
        Goal("daemon and worker, resident", numbers.get("resident_mb"), 150.0, None, True, "MB"),
    ]


def _rate(figures: Figures, name: str, floor: str) -> float | None:
    return figures.over_rounds([name, floor], lambda at: at(name).rate / at(floor).rate)
