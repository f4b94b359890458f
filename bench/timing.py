"""Closed loops and what is told of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Work = Callable[[], object]
_WARM_UP_S = 0.2


@dataclass(frozen=True)
class Timing:
    """One measurement: things done per second, and how long one took, in microseconds.

    `done` counts warming up as well. `cpu_us` is the processor time of one thing, by process.
    """

    rate: float
    p50_us: float
    p99_us: float
    done: int = 0
    cpu_us: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Timing:
        """From what a measuring program answered."""
        return cls(**told)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def cpu_all_us(self) -> float:
        """The processor time of every process; 0 if none was watched."""
        return sum(self.cpu_us.values())


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie (nearest rank)."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def summarize(durations_s: Sequence[float], elapsed_s: float, done: int | None = None) -> Timing:
    """A rate over `elapsed_s` and percentiles of single durations; `done` if more were."""
    ordered = sorted(durations_s)
    if not ordered:
        raise ValueError("nothing was finished within the measuring time")
    return Timing(
        len(ordered) / elapsed_s,
        1e6 * percentile(ordered, 0.5),
        1e6 * percentile(ordered, 0.99),
        len(ordered) if done is None else done,
    )


def middle(timings: Sequence[Timing]) -> Timing:
    """The median of every figure, and all that was done."""
    return Timing(
        median(t.rate for t in timings),
        median(t.p50_us for t in timings),
        median(t.p99_us for t in timings),
        sum(t.done for t in timings),
        {
            name: median(t.cpu_us[name] for t in timings if name in t.cpu_us)
            for name in timings[0].cpu_us
        },
    )


def closed_loop(works: Sequence[Work], seconds: float) -> Timing:
    """Call each work again and again, each in a thread of its own, and count what ends in time.

    When it started does not matter: counting whole calls only would lose, at either end, half a
    call of each thread.
    """
    ready = threading.Barrier(len(works))

    def loop(work: Work) -> list[tuple[float, float]]:
        ready.wait()
        clock = time.perf_counter
        begin = clock() + _WARM_UP_S
        end = begin + seconds
        done = []
        while (started := clock()) < end:
            work()
            ended = clock()
            done.append((ended - begin, ended - started))
        return done

    with ThreadPoolExecutor(len(works)) as pool:
        done = [each for per_thread in pool.map(loop, works) for each in per_thread]
    timely = [spent for ended, spent in done if 0 <= ended <= seconds]
    if timely:
        return summarize(timely, seconds, len(done))
    # Something that takes longer than it was to be measured: better all of it than nothing.
    return summarize([spent for _, spent in done], _WARM_UP_S + max(ended for ended, _ in done))
