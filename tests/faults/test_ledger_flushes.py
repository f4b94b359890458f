"""Flushes of the ledger: none fails unnoticed, none is left out, and few are made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ledgers import Home, furnished
from tests.tally import Promise, tallied

ROOT = Path(__file__).resolve().parents[2]


needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (apt install strace)"
)


PROGRAM = """
import sys
from pathlib import Path
from keyd.errors import BackendUnavailable
from tests.ledgers import Home, sign
ledger = Home(Path(sys.argv[1])).open()
signed = refused = 0
for version in range(1, 200):
    try:
        sign(ledger, version)
        signed += 1
    except BackendUnavailable as error:
        assert error.reason in ("LEDGER_WRITE_FAILED", "ANCHOR_WRITE_FAILED"), error
        refused += 1
print(signed, refused, ledger.statistics().failed_groups, flush=True)
ledger.close()
"""


def run_traced(base: Path, program: str, *options: str) -> tuple[str, str]:
    """Run under strace; what the program printed, and the trace."""
    trace = base / "trace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace), *options, sys.executable, "-c", program, base],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if "ptrace" in done.stderr and done.returncode != 0:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    assert done.returncode == 0, done.stderr
    return done.stdout, trace.read_text()


@needs_strace
def test_a_failed_flush_is_a_typed_refusal_on_a_new_connection(tmp_path: Path) -> None:
    """Some flush in every 40 fails: refused with LEDGER_WRITE_FAILED, then all goes on."""
    with tallied(Promise.RECORDED, "a flush of the ledger fails") as tally:
        furnished(tmp_path).close()
        printed, trace = run_traced(
            tmp_path,
            PROGRAM,
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            "inject=fdatasync,fsync:error=EIO:when=60+40",
        )
        signed, refused, failed_groups = map(int, printed.split())
        assert signed + refused == 199
        assert failed_groups >= refused >= 3
        assert trace.count("(INJECTED)") >= refused
        ledger = Home(tmp_path).open()
        assert ledger.refusal() is None
        known = ledger.read(
            lambda view: view.versions("demo", [("targets", v) for v in range(200)])
        )
        # What was refused may have been recorded all the same, never the other way round.
        assert sum(record.accepted for record in known.values()) >= signed
        ledger.close()
        tally.injected(refused)


# --- order and number of flushes -----------------------------------------------------------------


GROUPED = """
import sys, threading
from pathlib import Path
from tests.ledgers import Home, sign
ledger = Home(Path(sys.argv[1])).open()
def caller(role):
    for version in range(1, 11):
        sign(ledger, version, role)
callers = [threading.Thread(target=caller, args=(f"role{n}",)) for n in range(32)]
print("begin", file=sys.stderr, flush=True)
[c.start() for c in callers]
[c.join() for c in callers]
print(ledger.statistics().groups, flush=True)
print("end", file=sys.stderr, flush=True)
ledger.close()
"""


@needs_strace
def test_thirty_two_callers_need_fewer_flushes_than_signatures(tmp_path: Path) -> None:
    furnished(tmp_path).close()
    printed, trace = run_traced(tmp_path, GROUPED, "-e", "trace=fdatasync,fsync,write")
    signing = trace[trace.index('"begin') : trace.index('"end')]
    flushes = len(re.findall(r"fdatasync\(|fsync\(", signing))
    assert 0 < flushes < 320  # 320 signatures are 640 transactions
    assert int(printed) <= flushes + 5


ONE = """
import os, sys
from pathlib import Path
from tests.ledgers import Home, complete, reserve
ledger = Home(Path(sys.argv[1])).open()
for version in range(1, 101):
    made = ledger.transact(reserve(version))
    os.write(2, b"reserved\\n")
    ledger.transact(complete(made))
    os.write(2, b"completed\\n")
ledger.close()
"""


@needs_strace
def test_every_acknowledgement_follows_a_flush(tmp_path: Path) -> None:
    """100 of 100: WAL written, flushed, anchor written, and only then told (B3)."""
    furnished(tmp_path).close()
    _, trace = run_traced(tmp_path, ONE, "-y", "-e", "trace=fdatasync,fsync,write,pwrite64,openat")
    steps = []
    for line in trace.splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*ledger\.db-wal>", line):
            steps.append("wal")
        elif re.search(r"fdatasync\(\d+<[^>]*ledger\.db-wal>", line):
            steps.append("flush")
        elif re.search(r"write\(\d+<[^>]*anchor\.jsonl>", line):
            steps.append("anchor")
        elif '"reserved' in line or '"completed' in line:
            steps.append("told")
    told = [n for n, step in enumerate(steps) if step == "told"]
    assert len(told) == 200
    for position in told:
        since = steps[max(p for p in [-1, *told] if p < position) + 1 : position]
        last = {step: n for n, step in enumerate(since)}
        assert last["wal"] < last["flush"] < since.index("anchor")
