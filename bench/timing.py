"""Closed loops and what is told of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]
_WARM_UP_S = 0.15


@dataclass(frozen=True)
class Timing:
    """One measurement: things done per second, and how long one took, in microseconds."""

    rate: float
    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, told: Mapping[str, float]) -> Timing:
        """From what a measuring program answered."""
        return cls(told["rate"], told["p50_us"], told["p99_us"])

    def told(self) -> dict[str, float]:
        """For JSON."""
        return {"rate": self.rate, "p50_us": self.p50_us, "p99_us": self.p99_us}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie (nearest rank)."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def summarize(durations_s: Sequence[float], elapsed_s: float) -> Timing:
    """A rate over `elapsed_s` and percentiles of single durations."""
    ordered = sorted(durations_s)
    if not ordered:
        raise ValueError("nothing was finished within the measuring time")
    return Timing(
        len(ordered) / elapsed_s,
        1e6 * percentile(ordered, 0.5),
        1e6 * percentile(ordered, 0.99),
    )


def middle(timings: Sequence[Timing]) -> Timing:
    """The median of every figure."""
    return Timing(
        median(t.rate for t in timings),
        median(t.p50_us for t in timings),
        median(t.p99_us for t in timings),
    )


def closed_loop(works: Sequence[Work], seconds: float) -> Timing:
    """Call each work again and again, each in a thread of its own; count what ends in time."""
    ready = threading.Barrier(len(works))

    def loop(work: Work) -> list[float]:
        ready.wait()
        clock = time.perf_counter
        begin = clock() + _WARM_UP_S
        end = begin + seconds
        durations = []
        while (started := clock()) < end:
            work()
            ended = clock()
            if started >= begin and ended <= end:
                durations.append(ended - started)
        return durations

    with ThreadPoolExecutor(len(works)) as pool:
        per_thread = list(pool.map(loop, works))
    return summarize([one for durations in per_thread for one in durations], seconds)
