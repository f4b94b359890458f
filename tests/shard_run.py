"""Runs shards: each a pytest in a process group of its own, several of them at a time.

A shard has ten minutes. Shortly before, tests/shard_limit.py fails the test that is running, with
what it showed; a test that cannot be failed has its stacks shown and its process ended by
tests/hanging.py. Only what withstands both is killed without a word.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import shard_limit, tally
from tests.shard_state import Outcome, State

LIMIT_S = 600
ENDED_S = 570
GRACE_S = 15
_LOOK_S = 0.1
# pytest's codes for runs that end with a report: the last one for a run that was stopped in time.
_REPORTED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class SlowTest:
    """A test's pytest id and how long its author says it takes.

    Tests of one `lane`, which go on with what the one before has left, never run side by side.
    """

    nodeid: str
    seconds: int
    lane: str = ""


@dataclass(frozen=True)
class Running:
    """A shard that runs; `started` is by the monotonic clock."""

    name: str
    tests: Sequence[SlowTest]
    process: subprocess.Popen[bytes]
    started: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def run(shards: Mapping[str, Sequence[SlowTest]], state: State, jobs: int) -> dict[str, Outcome]:
    """Runs shards, given by name, `jobs` at a time, and keeps in `state` what each came to.

    What runs when this is interrupted is ended, and not kept: it is run again.
    """
    waiting = list(shards)
    running: list[Running] = []
    outcomes: dict[str, Outcome] = {}
    try:
        while waiting or running:
            taken = _lanes(test for one in running for test in one.tests)
            free = [name for name in waiting if not _lanes(shards[name]) & taken]
            if free and len(running) < jobs:
                waiting.remove(free[0])
                running.append(_start(free[0], shards[free[0]], state))
                continue
            for one in [one for one in running if _over(one)]:
                running.remove(one)
                outcomes[one.name] = _judged(one, state.report(one.name))
                state.keep(one.name, outcomes[one.name])
                _tell(one, outcomes[one.name], state.log(one.name))
            time.sleep(_LOOK_S)
    finally:
        for one in running:
            _end(one)
    return outcomes


def _lanes(tests: Iterable[SlowTest]) -> set[str]:
    return {test.lane for test in tests} - {""}


def _start(name: str, tests: Sequence[SlowTest], state: State) -> Running:
    state.begin(name)
    print(f"=== {len(tests)} tests from {tests[0].nodeid} on, see {state.log(name)}", flush=True)
    started = time.monotonic()
    limits = ["-o", f"timeout={ENDED_S}", "-o", f"hanging_grace={GRACE_S}"]
    options = [*limits, "-p", "tests.shard_limit", f"--junitxml={state.report(name)}"]
    with state.log(name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *(test.nodeid for test in tests)],
            env={
                **os.environ,
                tally.VARIABLE: str(state.tally(name).absolute()),
                shard_limit.VARIABLE: str(started + ENDED_S),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(name, tests, process, started)


def _over(running: Running) -> bool:
    """Whether a shard has ended, by itself or because its time is up."""
    if running.process.poll() is None and running.seconds < LIMIT_S:
        return False
    _end(running)
    return True


def _end(running: Running) -> None:
    """Kill what is left of the group: pytest, or what a pytest that was ended had started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()


def _judged(running: Running, report: Path) -> Outcome:
    """What pytest's report says; a test that it does not tell of has failed."""
    seconds, count = round(running.seconds), len(running.tests)
    code = running.process.returncode
    if running.seconds >= LIMIT_S:
        return Outcome(0, count, 0, seconds, f"killed after {LIMIT_S} s")
    if code not in _REPORTED or not report.exists():
        return Outcome(0, count, 0, seconds, f"pytest ended with {code}")
    suite = next(ET.parse(report).getroot().iter("testsuite")).attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    skipped = int(suite["skipped"])
    passed = int(suite["tests"]) - failed - skipped
    missing = max(0, count - passed - failed - skipped)
    note = f"{missing} not run: time was up after {ENDED_S} s" if missing else ""
    return Outcome(passed, failed + missing, skipped, seconds, note)


def _tell(running: Running, outcome: Outcome, log: Path) -> None:
    """One line for a shard that passed, all that it said for one that did not."""
    if not outcome.ok:
        print(log.read_text(errors="replace"))
    verdict = "passed" if outcome.ok else "FAILED"
    print(f"=== {verdict} in {outcome.seconds} s: from {running.tests[0].nodeid} on", flush=True)
