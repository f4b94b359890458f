"""What a run says: lines for people, JSON for machines, a table for the README."""

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
from bench.goals import Goal, all_goals
from bench.plan import Plan
from bench.timing import Timing

_FORMAT = 1
_PACKAGES = ("keyd", "grpcio", "protobuf", "python-pkcs11", "cryptography")
_PROCESSES = ("client", "server", "daemon", "worker")
_WATCHED = ("raw", "noop", "unary", "batch", "pep458", "memory", "keys", "slow", "growth")
_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"


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
        _machine_line(read["machine"]),
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


def markdown(read: Mapping[str, Any]) -> str:
    """The README's table."""
    figures = figures_of(read)
    lines = ["| measured | per second | p50 | p99 | of its floor |", "|---|--:|--:|--:|--:|"]
    for name, words, floor in _README_ROWS:
        if name in figures:
            timing = figures.middle(name)
            p50, p99 = ("" if "batch" in name else _ms(us) for us in (timing.p50_us, timing.p99_us))
            lines.append(
                f"| {words} | {timing.rate:,.0f} | {p50} | {p99} | {_share(figures, name, floor)} |"
            )
    about = (
        f"One run of `make bench` ({read['mode']}, medians of {read['rounds']} rounds): "
        f"{_machine_line(read['machine'])}; client, daemon and SoftHSM share the cores. "
        "The floor of a call is an empty gRPC call, of a batch python-pkcs11 alone on one thread. "
        "Every signature is checked against the rules, durable before it is made and again before "
        "it is released, and verified by daemon and client."
    )
    return "\n".join([*lines, "", about])


_README_ROWS = (
    ("unary/unix/1", "`SignMetadata`, Unix socket, 1 caller", "noop/unix/1"),
    ("unary/unix/32", "`SignMetadata`, Unix socket, 32 callers", "noop/unix/32"),
    ("unary/mtls/32", "`SignMetadata`, mutual TLS, 32 callers", "noop/mtls/32"),
    ("unary/rsa3072/32", "the same with RSA-3072, Unix socket", "noop/unix/32"),
    ("batch/64", "`BatchSignMetadata`, 64 items", "raw/p256/1"),
    ("batch/1024", "`BatchSignMetadata`, 1,024 items", "raw/p256/1"),
    ("raw/p256/1", "floor: python-pkcs11 alone, 1 thread", "raw/p256/1"),
    ("noop/unix/32", "floor: empty gRPC call, 32 callers", "noop/unix/32"),
)


def write_readme(path: Path, read: Mapping[str, Any]) -> None:
    """Replace what stands between the two markers. Raises: ValueError without them."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the lines {_BEGIN} and {_END}")
    path.write_text(f"{before}{_BEGIN}\n{markdown(read)}\n{_END}{after}", encoding="utf-8")


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
            yield (kind, _rate(one), _rate(two), _ms(one.p50_us), _rate(verified))


def _floors(figures: Figures) -> Iterator[Row]:
    yield ("", "rate", "p50", "p99")
    if "disk" in figures:
        disk = figures.middle("disk")
        yield ("400 bytes, fdatasync", _rate(disk), _ms(disk.p50_us), _ms(disk.p99_us))
    for name in figures.series:
        if name.startswith("noop/"):
            _, socket, callers = name.split("/")
            timing = figures.middle(name)
            words = f"no-op call, {socket}, {callers} at once"
            yield (words, _rate(timing), _ms(timing.p50_us), _ms(timing.p99_us))


def _calls(figures: Figures) -> Iterator[Row]:
    yield ("", "callers", "rate", "p50", "p99", "of no-op")
    for name in figures.series:
        if name.startswith("unary/"):
            _, where, callers = name.split("/")
            timing = figures.middle(name)
            socket = where if f"noop/{where}/{callers}" in figures else "unix"
            share = _share(figures, name, f"noop/{socket}/{callers}")
            times = (_ms(timing.p50_us), _ms(timing.p99_us))
            yield (where, callers, _rate(timing), *times, share)


def _batches(figures: Figures, read: Mapping[str, Any]) -> Iterator[Row]:
    yield ("items", "rate", "of raw, 1 thread")
    for name in figures.series:
        if name.startswith("batch/"):
            share = _share(figures, name, "raw/p256/1")
            yield (name.split("/")[1], _rate(figures.middle(name)), share)
    if "pep458" in figures:
        timing = figures.middle("pep458")
        whole = f", so {16_384 / timing.rate:.1f} s for all 16,384"
        words = f"PEP 458: {read['bins']:,} bins{whole}"
        yield (words, _rate(timing), _share(figures, "pep458", "raw/p256/1"))


def _side_by_side(figures: Figures) -> Iterator[Row]:
    yield ("", "rate", "p50", "p99")
    for name in figures.series:
        if name.partition("/")[0] in ("memory", "keys", "slow", "growth"):
            timing = figures.middle(name)
            yield (name, _rate(timing), _ms(timing.p50_us), _ms(timing.p99_us))


def _cpu(figures: Figures) -> Iterator[Row]:
    """`cores` says how many were busy: about 1 with many callers, and one interpreter decides."""
    yield ("", *_PROCESSES, "all", "cores")
    for name in figures.series:
        timing = figures.middle(name)
        if name.partition("/")[0] in _WATCHED and timing.cpu_us:
            cells = (_us(timing.cpu_us.get(process)) for process in _PROCESSES)
            cores = timing.rate * timing.cpu_all_us / 1e6
            yield (name, *cells, _us(timing.cpu_all_us), f"{cores:.2f}")


def _rest(figures: Figures) -> Iterator[Row]:
    yield ("", "")
    for name, value in sorted(figures.numbers.items()):
        yield (name, f"{value:.3f}")


def _goals(figures: Figures) -> Iterator[Row]:
    yield ("", "measured", "wanted", "")
    for goal in all_goals(figures):
        yield _goal_cells(goal)


def _goal_cells(goal: Goal) -> Row:
    sign = "<=" if goal.at_most else ">="
    aim = f" (aim {goal.aim:g})" if goal.aim is not None else ""
    measured = "-" if goal.measured is None else f"{goal.measured:.2f}"
    return (goal.name, measured, f"{sign} {goal.limit:g}{aim} {goal.unit}".rstrip(), goal.verdict)


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


def _share(figures: Figures, name: str, floor: str) -> str:
    share = figures.over_rounds([name, floor], lambda at: at(name).rate / at(floor).rate)
    return "" if share is None else f"{share:.2f}"


def _rate(timing: Timing) -> str:
    return f"{timing.rate:,.0f}/s"


def _us(microseconds: float | None) -> str:
    return "" if microseconds is None else f"{microseconds:,.0f}"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:,.2f} ms"


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


def _machine_line(machine: Mapping[str, Any]) -> str:
    packages = machine["packages"]
    return (
        f"{machine['cores']} cores ({machine['processor']}), Python {machine['python']}, "
        f"grpcio {packages['grpcio']}, python-pkcs11 {packages['python-pkcs11']}"
    )
