"""What a run says in README.md and docs/explanation/performance.md, between their markers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.goals import all_goals
from bench.program import ROOT
from bench.report import figures_of
from bench.words import as_ms, as_us, cores_busy, goal_cells, machine_line, share_of

README = ROOT / "README.md"
EXPLANATION = ROOT / "docs" / "explanation" / "performance.md"
_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"
_SPEED = (
    ("unary/unix/1", "`SignMetadata`, Unix socket, 1 caller", "noop/unix/1"),
    ("unary/unix/32", "`SignMetadata`, Unix socket, 32 callers", "noop/unix/32"),
    ("unary/mtls/32", "`SignMetadata`, mutual TLS, 32 callers", "noop/mtls/32"),
    ("unary/rsa3072/32", "the same with RSA-3072, Unix socket", "noop/unix/32"),
    ("batch/64", "`BatchSignMetadata`, 64 items", "raw/p256/1"),
    ("batch/1024", "`BatchSignMetadata`, 1,024 items", "raw/p256/1"),
    ("pep458", "PEP 458: all hash bins of an index, each", "raw/p256/1"),
    ("raw/p256/1", "floor: python-pkcs11 alone, 1 thread", "raw/p256/1"),
    ("noop/unix/32", "floor: empty gRPC call, 32 callers", "noop/unix/32"),
)
_COSTS = (
    ("unary/unix/1", "`SignMetadata`, Unix socket, 1 caller"),
    ("unary/unix/32", "`SignMetadata`, Unix socket, 32 callers"),
    ("unary/mtls/32", "`SignMetadata`, mutual TLS, 32 callers"),
    ("unary/p384/32", "with P-384, Unix socket, 32 callers"),
    ("unary/rsa3072/32", "with RSA-3072, Unix socket, 32 callers"),
    ("batch/64", "`BatchSignMetadata`, 64 items"),
    ("batch/1024", "`BatchSignMetadata`, 1,024 items"),
    ("noop/unix/32", "floor: empty gRPC call, 32 callers"),
    ("raw/p256/1", "floor: python-pkcs11 alone, P-256"),
)


def publish(
    read: Mapping[str, Any], readme: Path = README, explanation: Path = EXPLANATION
) -> None:
    """Write both tables. Raises: ValueError if a file lacks its markers."""
    figures = figures_of(read)
    about = (
        f"One run of `make bench` ({read['mode']}, medians of {read['rounds']} rounds): "
        f"{machine_line(read['machine'])}"
    )
    _replace(readme, [*_speed(figures), "", f"{about}; {_CAVEAT}"])
    _replace(explanation, [f"{about}.", "", *_costs(figures), "", *_goals(figures)])


_CAVEAT = (
    "client, daemon and SoftHSM share the cores. "
    "The floor of a call is an empty gRPC call, of a batch python-pkcs11 alone on one thread. "
    "Every signature is checked against the rules, durable before it is made and again before "
    "it is released, and verified by daemon and client."
)


def _replace(path: Path, lines: Sequence[str]) -> None:
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the lines {_BEGIN} and {_END}")
    between = "\n".join(lines)
    path.write_text(f"{before}{_BEGIN}\n{between}\n{_END}{after}", encoding="utf-8")


def _speed(figures: Figures) -> Iterator[str]:
    yield "| measured | per second | p50 | p99 | of its floor |"
    yield "|---|--:|--:|--:|--:|"
    for name, words, floor in _SPEED:
        if name in figures:
            timing = figures.middle(name)
            alone = not name.startswith(("batch", "pep458"))
            times = [as_ms(us) if alone else "" for us in (timing.p50_us, timing.p99_us)]
            cells = (words, f"{timing.rate:,.0f}", *times, share_of(figures, name, floor))
            yield _row(cells)


def _costs(figures: Figures) -> Iterator[str]:
    yield "| processor time of one, in microseconds | client | daemon | worker | all | cores busy |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, words in _COSTS:
        if name in figures:
            timing = figures.middle(name)
            cost = timing.cpu_us
            served = cost.get("daemon", cost.get("server"))
            by_process = map(as_us, (cost.get("client"), served, cost.get("worker")))
            yield _row((words, *by_process, as_us(timing.cpu_all_us), cores_busy(timing)))


def _goals(figures: Figures) -> Iterator[str]:
    yield "| goal | measured | wanted | |"
    yield "|---|--:|--:|---|"
    for goal in all_goals(figures):
        yield _row(cell.replace("<=", "≤").replace(">=", "≥") for cell in goal_cells(goal))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
