"""What a run says: lines for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.goals import all_goals
from bench.plan import Plan
from bench.timing import Timing
from bench.words import as_ms, as_rate, as_us, cores_busy, goal_cells, machine_line, share_of

_FORMAT = 1
_PACKAGES = ("keyd", "grpcio", "protobuf", "python-pkcs11", "cryptography")
_PROCESSES = ("client", "server", "daemon", "worker")
_WATCHED = ("raw", "noop", "unary", "batch", "pep458", "memory", "keys", "slow", "growth")


def document(figures: Figures, plan: Plan) -> dict[str, Any]:
    """Everything, as build/bench.json holds it."""
    return {
        "format": _FORMAT,
        "mode": plan.name,
        "rounds": plan.rounds,
        "bins": plan.bins,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "series": {
            name: [timing.told() for timing in timings] for name, timings in figures.series.items()
        },
        "numbers": figures.numbers,
    }


def figures_of(read: Mapping[str, Any]) -> Figures:
    """The figures of a document. Raises: ValueError for another format."""
    if read.get("format") != _FORMAT:
        raise ValueError(f"format {read.get('format')!r}, expected {_FORMAT}: run the bench again")
    series = {name: [Timing.of(each) for each in told] for name, told in read["series"].items()}
    return Figures(series, read["numbers"])


def text(read: Mapping[str, Any]) -> str:
    """The whole report for a terminal."""
    figures = figures_of(read)
    parts = [
        f"keyd bench, {read['mode']}, medians of {read['rounds']} rounds",
        machine_line(read["machine"]),
        "Clients, floors and keyd share these cores: compare within this table only.",
        *_section("Signatures on the token, python-pkcs11 alone", _raw(figures)),
        *_section("Floors", _floors(figures)),
        *_section("SignMetadata, 2 KB targets, by KeydSigner, which verifies", _calls(figures)),
        *_section("BatchSignMetadata, P-256", _batches(figures, read)),
        *_section("Side by side", _side_by_side(figures)),
        *_section("Processor time of one signature, or no-op call, in microseconds", _cpu(figures)),
        *_section("Start and memory", _rest(figures)),
        *_section("Goals", _goals(figures)),
    ]
    return "\n".join(parts)


def write_json(path: Path, read: Mapping[str, Any]) -> None:
    """Write a document for later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(read, indent=1) + "\n", encoding="utf-8")


# --- rows: cells of text, all of one section with the same number ---------------------------------

Row = Sequence[str]


def _raw(figures: Figures) -> Iterator[Row]:
    yield ("scheme", "1 thread", "2 threads", "p50", "verify, cryptography")
    for name in figures.series:
        if name.startswith("raw/") and name.endswith("/1"):
            kind = name.split("/")[1]
            one, two = figures.middle(name), figures.middle(f"raw/{kind}/2")
            verified = figures.middle(f"verify/{kind}")
            yield (kind, as_rate(one), as_rate(two), as_ms(one.p50_us), as_rate(verified))


def _floors(figures: Figures) -> Iterator[Row]:
    yield ("", "rate", "p50", "p99")
    if "disk" in figures:
        disk = figures.middle("disk")
        yield ("400 bytes, fdatasync", as_rate(disk), as_ms(disk.p50_us), as_ms(disk.p99_us))
    for name in figures.series:
        if name.startswith("noop/"):
            _, socket, callers = name.split("/")
            timing = figures.middle(name)
            words = f"no-op call, {socket}, {callers} at once"
            yield (words, as_rate(timing), as_ms(timing.p50_us), as_ms(timing.p99_us))


def _calls(figures: Figures) -> Iterator[Row]:
    yield ("", "callers", "rate", "p50", "p99", "of no-op")
    for name in figures.series:
        if name.startswith("unary/"):
            _, where, callers = name.split("/")
            timing = figures.middle(name)
            socket = where if f"noop/{where}/{callers}" in figures else "unix"
            share = share_of(figures, name, f"noop/{socket}/{callers}")
            times = (as_ms(timing.p50_us), as_ms(timing.p99_us))
            yield (where, callers, as_rate(timing), *times, share)


def _batches(figures: Figures, read: Mapping[str, Any]) -> Iterator[Row]:
    yield ("items", "rate", "of raw, 1 thread")
    for name in figures.series:
        if name.startswith("batch/"):
            share = share_of(figures, name, "raw/p256/1")
            yield (name.split("/")[1], as_rate(figures.middle(name)), share)
    if "pep458" in figures:
        timing = figures.middle("pep458")
        whole = f", so {16_384 / timing.rate:.1f} s for all 16,384"
        words = f"PEP 458: {read['bins']:,} bins{whole}"
        yield (words, as_rate(timing), share_of(figures, "pep458", "raw/p256/1"))


def _side_by_side(figures: Figures) -> Iterator[Row]:
    yield ("", "rate", "p50", "p99")
    for name in figures.series:
        if name.partition("/")[0] in ("memory", "keys", "slow", "growth"):
            timing = figures.middle(name)
            yield (name, as_rate(timing), as_ms(timing.p50_us), as_ms(timing.p99_us))


def _cpu(figures: Figures) -> Iterator[Row]:
    yield ("", *_PROCESSES, "all", "cores")
    for name in figures.series:
        timing = figures.middle(name)
        if name.partition("/")[0] in _WATCHED and timing.cpu_us:
            cells = (as_us(timing.cpu_us.get(process)) for process in _PROCESSES)
            yield (name, *cells, as_us(timing.cpu_all_us), cores_busy(timing))


def _rest(figures: Figures) -> Iterator[Row]:
    yield ("", "")
    for name, value in sorted(figures.numbers.items()):
        yield (name, f"{value:.3f}")


def _goals(figures: Figures) -> Iterator[Row]:
    yield ("", "measured", "wanted", "")
    for goal in all_goals(figures):
        yield goal_cells(goal)


def _section(title: str, rows: Iterator[Row]) -> Iterator[str]:
    written = list(rows)
    if len(written) < 2:
        return  # nothing below the heads of the columns
    widths = [max(map(len, column)) for column in zip(*written, strict=True)]
    yield f"\n{title}"
    for first, *others in written:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  " + "  ".join(cells).rstrip()


# --- the machine ----------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
