"""The n-th system call on the ledger's files fails, for every n: typed refusals, nothing lost (B2).

An operator sees LEDGER_WRITE_FAILED, LEDGER_CORRUPT or ANCHOR_WRITE_FAILED, and asking again helps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.ledger.verification.verify import verify_ledger
from tests.faults.acknowledged import missing, told_by
from tests.faults.disk_recording import ROOT
from tests.ledgers import Home, furnished, sign
from tests.tally import Promise, tallied

CALLS = ("pwrite64", "write", "fdatasync", "fsync", "openat", "rename", "unlink", "ftruncate")
QUICK = {"pwrite64": (0.3, 0.8), "write": (0.7,), "fdatasync": (0.5,), "openat": (0.4,)}
VERSIONS = 3
# Signs a few versions and asks again when refused, as a client would.
PROGRAM = """
import os, sys
from pathlib import Path
from keyd.errors import KeydError
from tests.ledgers import REPOSITORY, Home, complete, reserve
def patiently(work):
    for attempt in range(5):
        try:
            return work()
        except KeydError as error:
            os.write(1, f"refused {error.reason}\\n".encode())
        except OSError as error:
            assert work is opening, error
            os.write(1, f"refused errno-{error.errno}\\n".encode())
    raise SystemExit("refused five times")
def opening():
    return Home(Path(sys.argv[1])).open()
ledger = patiently(opening)
assert ledger.refusal() is None, ledger.refusal()
def held(version):
    return ledger.read(lambda view: view.reservation(REPOSITORY, "targets", 0, version))
def signatures(made):
    return ledger.read(lambda view: view.signatures(made))
for version in range(1, int(sys.argv[2]) + 1):
    made = patiently(lambda: held(version) or ledger.transact(reserve(version)))
    os.write(1, f"targets {version} {made.digest} reserved\\n".encode())
    patiently(lambda: signatures(made) or ledger.transact(complete(made)))
    os.write(1, f"targets {version} {made.digest} signed\\n".encode())
def close():
    ledger.close()
try:
    close()
except (KeydError, OSError) as error:
    os.write(1, f"refused at the end: {error}\\n".encode())
"""


@dataclass(frozen=True)
class Bench:
    """A furnished ledger to copy, and a folder for the copies."""

    first: Path
    folder: Path
    known: frozenset[str]

    def run(self, *injection: str) -> tuple[subprocess.CompletedProcess[bytes], str]:
        """The program under strace on a copy; how it ended and the calls on the ledger's files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.first, self.folder)
        trace = self.folder.with_name("trace")
        paths: list[str] = [option for path in self._paths() for option in ("-P", str(path))]
        traced = f"trace={','.join(CALLS)}"
        options = ["-f", "-qq", "-o", str(trace), *paths, "-e", traced, *injection]
        done = subprocess.run(
            ["strace", *options, sys.executable, "-c", PROGRAM, str(self.folder), str(VERSIONS)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            timeout=120,
        )
        if b"ptrace" in done.stderr and done.returncode != 0:
            pytest.skip("strace may not trace here (ptrace is forbidden)")
        return done, trace.read_text()

    def _paths(self) -> list[Path]:
        home = Home(self.folder)
        sides = [home.database.with_name(f"ledger.db{end}") for end in ("", "-wal", "-journal")]
        anchor = [home.anchor / name for name in ("anchor.jsonl", "anchor.jsonl.new")]
        return [home.state, home.anchor, *sides, *anchor]

    def calls(self) -> Counter[str]:
        """How often a thread makes each call at most; strace counts for each thread."""
        done, trace = self.run()
        assert done.returncode == 0, done.stderr
        counted = Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.MULTILINE))
        most: Counter[str] = Counter()
        for (_, call), number in counted.items():
            most[call] = max(most[call], number)
        return most

    def fail(self, call: str, number: int) -> None:
        """Let the `number`-th of these calls fail, and look at what is left."""
        done, trace = self.run("-e", f"inject={call}:error=EIO:when={number}")
        place = f"{call} {number}"
        assert "(INJECTED)" in trace, f"{place} never came"
        assert b"Traceback" not in done.stderr, (place, done.stderr.decode())
        assert done.returncode == 0, (place, done.stdout, done.stderr)
        told = told_by(done.stdout)
        assert len(told) == 2 * VERSIONS, place
        ledger = Home(self.folder).open()
        assert ledger.refusal() is None, place
        assert not missing(ledger, told), place
        sign(ledger, VERSIONS + 1)
        ledger.close()
        flaws = flaws_of(self.folder)
        assert flaws <= self.known, (place, flaws)


def flaws_of(base: Path) -> frozenset[str]:
    home = Home(base)
    return frozenset(flaw.what for flaw in verify_ledger(home.state, anchor=home.anchor).flaws)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    first = tmp_path / "first"
    first.mkdir(mode=0o700)
    furnished(first).close()
    healthy = shutil.copytree(first, tmp_path / "healthy")
    ledger = Home(healthy).open()
    sign(ledger, 1)
    ledger.close()
    # The pieces of work in tests/ledgers.py publish no root metadata, which is a flaw.
    return Bench(first, tmp_path / "copy", flaws_of(healthy))


def fail_each(bench: Bench, places: Iterable[tuple[str, int]]) -> None:
    fault = "EIO from one system call of the ledger"
    with tallied(Promise.RECORDED, fault) as tally:
        for call, number in places:
            bench.fail(call, number)
            tally.injected()
        print(f"{tally.injections} calls failed")


def test_some_calls_fail(bench: Bench) -> None:
    calls = bench.calls()
    fail_each(
        bench,
        [
            (call, max(1, int(share * calls[call])))
            for call, shares in QUICK.items()
            for share in shares
        ],
    )


@pytest.mark.slow(seconds=140)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_every_call_fails(bench: Bench, part: int) -> None:
    calls = bench.calls()
    every = [(call, n) for call in CALLS for n in range(1, calls[call] + 1)]
    assert {call for call, _ in every} >= {"pwrite64", "write", "fdatasync", "openat", "rename"}
    fail_each(bench, every[part::4])
