"""Runs the tests marked ``slow`` in shards of at most ten minutes (``make test-all``).

``@pytest.mark.slow(seconds=120)`` says how long a test takes (60 when unsaid); shards are packed
from that, in an order that depends on the tests alone. A shard that passed is not run again until a
file changes that is not documentation, so an interrupted run goes on where it stopped. ``--shard
2/3`` takes every third, starting with the second, to spread them over machines; ``--jobs 3`` runs
three at a time. What fault tests counted, in these runs and in ``make test``, is summed up in
build/faults.md. Runs in the repository's root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests import faults_report, shard_run
from tests.shard_run import SlowTest
from tests.shard_state import Outcome, State, current

# A busy machine takes a good half longer, and a shard has ten minutes.
PACKED_S = 330
# A test that is longer has a shard of its own, up to this.
LONGEST_S = 480
UNSAID_S = 60


class Collector:
    """A pytest plugin that keeps the selected tests."""

    def __init__(self) -> None:
        self.tests: list[SlowTest] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marker = item.get_closest_marker("slow")
            told = marker.kwargs if marker else {}
            seconds, lane = told.get("seconds", UNSAID_S), told.get("lane", "")
            self.tests.append(SlowTest(item.nodeid, seconds, lane))


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
        if test.seconds > LONGEST_S:
            raise SystemExit(f"{test.nodeid} takes {test.seconds} s; split it below {LONGEST_S} s")
        if not shards or test.seconds > left:
            shards.append([])
            left = PACKED_S
        shards[-1].append(test)
        left -= test.seconds
    return shards


def name_of(shard: Sequence[SlowTest]) -> str:
    """What a shard's files are called: the same for the same tests."""
    return hashlib.sha256("\n".join(test.nodeid for test in shard).encode()).hexdigest()[:16]


def mine(number: int, part: str) -> bool:
    """Whether shard `number` belongs to `part`, "n/m"; both count from 1."""
    first, _, of = part.partition("/")
    if not (first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of)):
        raise SystemExit(f"a shard is n/m with 1 <= n <= m, not {part!r}")
    return (number - int(first)) % int(of) == 0


def run_unfinished(
    shards: Sequence[Sequence[SlowTest]], part: str, state: State, jobs: int
) -> list[Outcome]:
    """Runs each shard of `part` that has not passed yet, and says what each came to."""
    numbered = enumerate(shards, 1)
    chosen = {name_of(shard): (number, shard) for number, shard in numbered if mine(number, part)}
    earlier = {name: outcome for name in chosen if (outcome := state.outcome(name)) and outcome.ok}
    todo = {name: tests for name, (_, tests) in chosen.items() if name not in earlier}
    outcomes = earlier | shard_run.run(todo, state, jobs)
    print("=== slow tests")
    for name, (number, tests) in chosen.items():
        outcome, when = outcomes[name], "earlier" if name in earlier else "now"
        print(
            f"shard {number} of {len(shards)}: {'passed' if outcome.ok else 'FAILED'} {when}"
            f" in {outcome.seconds} s, from {tests[0].nodeid} on {outcome.note}".rstrip()
        )
    return [outcomes[name] for name in chosen]


def stopped(number: int, _frame: object) -> None:
    """A signal handler: what runs is ended along."""
    raise SystemExit(128 + number)


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
    parser.add_argument("--jobs", type=int, default=1, help="how many shards at a time")
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
    signal.signal(signal.SIGTERM, stopped)
    state = current(args.state)
    shards = pack(collect(args.paths))
    state.keep_plan([name_of(shard) for shard in shards])
    outcomes = run_unfinished(shards, args.shard, state, max(1, args.jobs))
    print(f"what was injected: {faults_report.write(state, args.state.parent)}")
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
