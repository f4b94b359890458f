"""What was injected and what came of it: build/faults.md, and the figures in the documentation.

`make test-all` writes `faults.md` for people and `faults.json` beside it, from the tallies of all
shards that ran on these files, in however many runs, and of the last `make test`.
``python -m tests.faults_report --docs`` puts the figures of `faults.json` into the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from bench.timing import percentile
from tests.shard_state import Outcome, State
from tests.tally import Promise

FORMAT = 1
PAGE = Path("docs/explanation/failure-behaviour.md")
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


@dataclass
class Kind:
    """Everything that was counted of one kind of fault; a violation is a block that failed."""

    promise: str
    fault: str
    blocks: int = 0
    injections: int = 0
    violations: int = 0
    recovery_s: list[float] = field(default_factory=list)

    def add(self, line: Mapping[str, Any]) -> None:
        """Count one block of tests/tally.py."""
        self.blocks += 1
        self.injections += line["injections"]
        self.violations += line["violations"]
        self.recovery_s += line["recovery_s"]


@dataclass(frozen=True)
class Report:
    """One report: `shards` counts those that passed, were run and are planned."""

    kinds: list[Kind]
    skipped: dict[str, int]
    shards: tuple[int, int, int]
    seconds: int
    quick_blocks: int
    commit: str
    at: str
    machine: str

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def of_json(cls, text: str) -> Report:
        """Raises: ValueError for another format."""
        read = json.loads(text)
        if read.pop("format", 0) != FORMAT:
            raise ValueError("written by another version: run make test-all again")
        kinds = [Kind(**kind) for kind in read.pop("kinds")]
        return cls(kinds=kinds, shards=tuple(read.pop("shards")), **read)


# --- gathering ------------------------------------------------------------------------------------


def gather(state: State) -> Report:
    """Merge what every shard's last run and the last run of the quick tests left."""
    names = state.plan()
    outcomes = {name: outcome for name in names if (outcome := state.outcome(name)) is not None}
    quick = list(_lines([state.quick_tally]))
    lines = [*quick, *_lines(state.tally(name) for name in outcomes)]
    return Report(
        kinds=merge(lines),
        skipped=dict(_skipped(_reports(state, outcomes)).most_common()),
        shards=(sum(map(_ok, outcomes.values())), len(outcomes), len(names)),
        seconds=sum(outcome.seconds for outcome in outcomes.values()),
        quick_blocks=len(quick),
        commit=_output("git", "describe", "--always", "--dirty"),
        at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=_machine(),
    )


def merge(lines: Iterable[Mapping[str, Any]]) -> list[Kind]:
    """Blocks by promise, in the order of the promises, and kind of fault."""
    found: dict[tuple[str, str], Kind] = {}
    for line in lines:
        place = line["promise"], line["fault"]
        found.setdefault(place, Kind(*place)).add(line)
    order = {promise.value: number for number, promise in enumerate(Promise)}
    return sorted(found.values(), key=lambda kind: (order[kind.promise], kind.fault))


def _lines(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                # The last line of a run that was killed may be cut.
                if line.endswith("}"):
                    yield json.loads(line)


def _reports(state: State, names: Iterable[str]) -> list[Path]:
    return [state.quick_tally / "report.xml", *map(state.report, names)]


def _skipped(reports: Iterable[Path]) -> Counter[str]:
    return Counter(
        skipped.get("message", "no reason given")
        for report in reports
        if report.exists()
        for skipped in ET.parse(report).getroot().iter("skipped")
    )


def _ok(outcome: Outcome) -> bool:
    return outcome.ok


def _machine() -> str:
    softhsm = "no SoftHSM"
    if shutil.which("softhsm2-util"):
        softhsm = f"SoftHSM {_output('softhsm2-util', '--version')}"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Python {platform.python_version()}, {softhsm}"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


# --- writing --------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """All of it."""
    passed, run, planned = report.shards
    lines = [
        "# Faults injected",
        "",
        f"- commit {report.commit}, {report.at}; {report.machine}",
        f"- {run} of {planned} shards run, {passed} of them passed, in {_minutes(report.seconds)}",
        f"- {report.quick_blocks} counted blocks of `make test` on the same files",
        "",
        "A block is a stretch of a test that counts what it injects; a violation is one that",
        "failed. Recovery is the time until the service was as before.",
        "",
        *promises_table(report),
    ]
    for promise in Promise:
        if kinds := [kind for kind in report.kinds if kind.promise == promise]:
            lines += ["", f"## {promise.capitalize()}", "", *_table("Fault", kinds, "fault")]
    lines += ["", "## Not run", ""]
    lines += [f"- {count}: {' '.join(why.split())}" for why, count in report.skipped.items()]
    return "\n".join(lines if report.skipped else [*lines, "Nothing was skipped."]) + "\n"


def promises_table(report: Report) -> list[str]:
    """A row for every promise, also for those that nothing was injected for."""
    sums = [
        Kind(
            promise=promise.value,
            fault="",
            blocks=sum(kind.blocks for kind in kinds),
            injections=sum(kind.injections for kind in kinds),
            violations=sum(kind.violations for kind in kinds),
            recovery_s=[time_s for kind in kinds for time_s in kind.recovery_s],
        )
        for promise in Promise
        for kinds in [[kind for kind in report.kinds if kind.promise == promise]]
    ]
    return _table("Promise", sums, "promise")


def docs_block(report: Report) -> str:
    """The figures for the documentation."""
    passed, run, planned = report.shards
    about = (
        f"One run of `make test` and `make test-all` at commit {report.commit}: {report.machine}; "
        f"{passed} of {planned} shards passed, in {_minutes(report.seconds)}."
    )
    if run < planned:
        about += f" Not run: {planned - run} of them."
    return "\n".join([*promises_table(report), "", about])


def put_into(page: Path, report: Report) -> None:
    """Replace what stands between the two markers. Raises: ValueError without them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{docs_block(report)}\n{END}{after}", encoding="utf-8")


def write(state: State, folder: Path) -> Path:
    """Write `faults.json` and `faults.md`; returns the latter."""
    report = gather(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(report.to_json(), encoding="utf-8")
    page = folder / "faults.md"
    page.write_text(markdown(report), encoding="utf-8")
    return page


def _table(title: str, kinds: Sequence[Kind], name: str) -> list[str]:
    head = [
        f"| {title} | blocks | injected | violations | recovery p50 | p99 | max |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    return [*head, *(_row(getattr(kind, name), kind) for kind in kinds)]


def _row(name: str, kind: Kind) -> str:
    times = sorted(kind.recovery_s)
    figures = [percentile(times, 0.5), percentile(times, 0.99), times[-1]] if times else []
    cells = [f"{seconds:.2f} s" for seconds in figures] or [""] * 3
    counts = f"{kind.blocks:,} | {kind.injections:,} | {kind.violations:,}"
    return f"| {name} | {counts} | {' | '.join(cells)} |"


def _minutes(seconds: int) -> str:
    return f"{seconds // 60} min {seconds % 60} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, or put its figures into the documentation."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults_report", description=__doc__)
    parser.add_argument("--docs", action="store_true", help=f"write the figures into {PAGE}")
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"))
    args = parser.parse_args(argv)
    if not args.json.exists():
        raise SystemExit(f"{args.json} is not there: run make test-all first")
    report = Report.of_json(args.json.read_text("utf-8"))
    if args.docs:
        put_into(PAGE, report)
    else:
        print(markdown(report), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
