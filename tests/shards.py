"""Runs the tests marked ``slow`` in shards of at most ten minutes (``make test-all``).

``@pytest.mark.slow(seconds=120)`` says how long a test takes (60 when unsaid); shards are packed
from that, in an order that depends on the tests alone. A shard that passed is not run again until a
file changes, so an interrupted run goes on where it stopped. ``--shard 2/3`` takes every third,
starting with the second, to spread them over machines. What fault tests counted, in these runs and
in ``make test``, is summed up in build/faults.md. Runs in the repository's root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import faults_report, tally
from tests.shard_state import Outcome, State, current

LIMIT_S = 600
# Room for start-up and for a busy machine.
PACKED_S = 480
UNSAID_S = 60


@dataclass(frozen=True)
class SlowTest:
    """A test's pytest id and how long its author says it takes."""

    nodeid: str
    seconds: int


class Collector:
    """A pytest plugin that keeps the selected tests."""

    def __init__(self) -> None:
        self.tests: list[SlowTest] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marker = item.get_closest_marker("slow")
            seconds = marker.kwargs.get("seconds", UNSAID_S) if marker else UNSAID_S
            self.tests.append(SlowTest(item.nodeid, seconds))


def collect(paths: Sequence[str]) -> list[SlowTest]:
    """Every slow test, sorted by id. Raises: SystemExit when the tests cannot be collected."""
    collector, output = Collector(), io.StringIO()
    options = ["--collect-only", "-q", "-m", "slow", "-p", "no:randomly", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(output):
        code = pytest.main([*options, *paths], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(output.getvalue())
    return sorted(collector.tests, key=lambda test: test.nodeid)


def pack(tests: Iterable[SlowTest]) -> list[list[SlowTest]]:
    """Fills shards in order. Raises: SystemExit for a test too long for any shard."""
    shards: list[list[SlowTest]] = []
    left = 0
    for test in tests:
        if test.seconds > PACKED_S:
            raise SystemExit(f"{test.nodeid} takes {test.seconds} s; split it below {PACKED_S} s")
        if not shards or test.seconds > left:
            shards.append([])
            left = PACKED_S
        shards[-1].append(test)
        left -= test.seconds
    return shards


def name_of(shard: Sequence[SlowTest]) -> str:
    """What a shard's files are called: the same for the same tests."""
    return hashlib.sha256("\n".join(test.nodeid for test in shard).encode()).hexdigest()[:16]


def run(shard: Sequence[SlowTest], report: Path, tallies: Path) -> Outcome:
    """Runs one shard in a process group of its own, which is killed when the time is up."""
    command = [sys.executable, "-m", "pytest", "-o", f"timeout={LIMIT_S}", f"--junitxml={report}"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, *(test.nodeid for test in shard)],
        env=os.environ | {tally.VARIABLE: str(tallies.absolute())},
        start_new_session=True,
    )
    note = ""
    try:
        process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        note = f"killed after {LIMIT_S} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - started)
    if note or process.returncode not in (0, 1):
        return Outcome(0, len(shard), 0, seconds, note or f"pytest ended with {process.returncode}")
    suite = next(ET.parse(report).getroot().iter("testsuite")).attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    skipped = int(suite["skipped"])
    return Outcome(int(suite["tests"]) - failed - skipped, failed, skipped, seconds)


def mine(index: int, part: str) -> bool:
    """Whether the shard at `index` (from 0) belongs to `part`, "n/m" with n from 1."""
    number, _, of = part.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise SystemExit(f"a shard is n/m with 1 <= n <= m, not {part!r}")
    return index % int(of) == int(number) - 1


def run_unfinished(shards: Sequence[Sequence[SlowTest]], part: str, state: State) -> list[Outcome]:
    """Runs each shard of `part` that has not passed yet, and says what each came to."""
    outcomes: list[Outcome] = []
    lines = ["=== slow tests"]
    for index, shard in enumerate(shards):
        if not mine(index, part):
            continue
        name = name_of(shard)
        outcome, when = state.outcome(name), "earlier"
        if outcome is None or not outcome.ok:
            print(f"=== shard {index + 1} of {len(shards)}: {len(shard)} tests", flush=True)
            state.begin(name)
            outcome, when = run(shard, state.report(name), state.tally(name)), "now"
            state.keep(name, outcome)
        outcomes.append(outcome)
        lines.append(
            f"shard {index + 1} of {len(shards)}: {'passed' if outcome.ok else 'FAILED'} {when}"
            f" in {outcome.seconds} s, from {shard[0].nodeid} on {outcome.note}".rstrip()
        )
    print("\n".join(lines))
    return outcomes


def emptied(base: Path) -> Path:
    """The folder where quick tests are to count, without what they counted before."""
    try:
        folder = current(base).quick_tally
    except (OSError, subprocess.CalledProcessError):
        # Not a clone: `make test` works there as well, only nothing sums it up.
        folder = base / "unversioned"
    shutil.rmtree(folder, ignore_errors=True)
    return folder.absolute()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is not yet done, reports all; 0 when every chosen shard passed."""
    parser = argparse.ArgumentParser(prog="tests.shards", description=__doc__)
    parser.add_argument("--shard", default="1/1", metavar="N/M")
    parser.add_argument("--state", type=Path, default=Path("build/shards"))
    parser.add_argument(
        "--quick-tally",
        action="store_true",
        help="run nothing: print the folder where quick tests are to count, emptied",
    )
    parser.add_argument("paths", nargs="*", default=["tests"])
    args = parser.parse_args(argv)
    if args.quick_tally:
        print(emptied(args.state))
        return 0
    state = current(args.state)
    shards = pack(collect(args.paths))
    state.keep_plan([name_of(shard) for shard in shards])
    outcomes = run_unfinished(shards, args.shard, state)
    print(f"what was injected: {faults_report.write(state, args.state.parent)}")
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
