"""kill -9 at every failpoint and at any moment: what was acknowledged is there, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keyd.errors import StateCorrupt
from keyd.failpoints import Failpoint
from keyd.ledger.backup import backup, restore
from keyd.ledger.opening import open_ledger
from keyd.ledger.repair import repair
from keyd.ledger.sqlite import SqliteLedger
from tests.fakes import TestClock
from tests.faults.acknowledged import Acknowledged, missing, told_by
from tests.ledgers import NOW, ORIGIN, REPOSITORY, Home, furnished, reserve, sign
from tests.tally import Promise, tallied

ROOT = Path(__file__).resolve().parents[2]


def run(
    base: Path, *, failpoint: str = "", kill_after_s: float = 0.0, last: int = 1_000_000
) -> tuple[int, list[Acknowledged]]:
    """Run the program until it dies; its exit status and what it was told."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("KEYD_FAILPOINT", None)
    if failpoint:
        environment["KEYD_FAILPOINT"] = failpoint
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.ledger_program", str(base), "4", str(last)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None
    if kill_after_s:
        assert program.stdout.readline() == b"open\n"
        time.sleep(kill_after_s)  # the moment of the kill is what varies here
        program.kill()
    told = told_by(program.stdout.read())
    program.stdout.close()
    return program.wait(60), told


def check(ledger: SqliteLedger, told: list[Acknowledged]) -> None:
    """Everything acknowledged is recorded, with its bytes."""
    assert ledger.refusal() is None
    assert not missing(ledger, told)


GROUP_POINTS = [
    Failpoint.LEDGER_GROUP_WRITTEN,
    Failpoint.LEDGER_GROUP_COMMITTED,
    Failpoint.LEDGER_GROUP_ANCHORED,
]


@pytest.mark.parametrize("point", GROUP_POINTS)
@pytest.mark.parametrize("passage", [1, 7, 40])
def test_killed_inside_a_group(tmp_path: Path, point: Failpoint, passage: int) -> None:
    furnished(tmp_path).close()
    with tallied(Promise.RECORDED, "SIGKILL inside a commit group") as tally:
        status, told = run(tmp_path, failpoint=f"{point}:{passage}")
        assert status == -signal.SIGKILL
        tally.injected()
        ledger = Home(tmp_path).open()
        check(ledger, told)
    marks = ledger.read(lambda view: {r.name: r.high_water for r in view.roles(REPOSITORY)})
    for role in ("role0", "role3"):
        sign(ledger, marks.get(role, 0) + 1, role)
    ledger.close()


@pytest.mark.parametrize("point", GROUP_POINTS)
def test_what_a_kill_leaves_of_a_group(tmp_path: Path, point: Failpoint) -> None:
    """Before COMMIT nothing of it, after COMMIT all of it, whatever the anchor was told."""
    ledger = furnished(tmp_path)
    size = ledger.unsigned_checkpoint().size
    ledger.close()
    run(tmp_path, failpoint=f"{point}:1")
    ledger = Home(tmp_path).open()
    grown = ledger.unsigned_checkpoint().size - size
    assert (grown > 0) == (point is not Failpoint.LEDGER_GROUP_WRITTEN)
    ledger.close()


def kill_often(base: Path, rounds: int, seed: int) -> int:
    chosen = random.Random(seed)
    furnished(base).close()
    everything: list[Acknowledged] = []
    with tallied(Promise.RECORDED, "SIGKILL of a writing ledger") as tally:
        for _ in range(rounds):
            status, told = run(base, kill_after_s=chosen.uniform(0.005, 0.2))
            assert status == -signal.SIGKILL
            tally.injected()
            everything += told
            ledger = Home(base).open()
            check(ledger, told)
            ledger.close()
    digests: dict[tuple[str, int], set[str]] = {}
    for one in everything:
        digests.setdefault((one.role, one.version), set()).add(one.digest)
    assert all(len(bound) == 1 for bound in digests.values())
    ledger = Home(base).open()
    check(ledger, everything)
    ledger.close()
    return len(everything)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    assert kill_often(tmp_path, rounds=8, seed=1) > 100


@pytest.mark.slow(seconds=60)
def test_killed_at_any_moment_many_times(tmp_path: Path) -> None:
    assert kill_often(tmp_path, rounds=60, seed=2) > 1000


def die(code: str, point: Failpoint, base: Path) -> None:
    """Run a few lines that must die at the failpoint."""
    program = (
        "import sys; from pathlib import Path; from tests.fakes import TestClock; "
        "from tests.ledgers import *; base = Path(sys.argv[1]); home = Home(base); "
        "import keyd.ledger.backup as b, keyd.ledger.repair as r; clock = TestClock(NOW); " + code
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KEYD_FAILPOINT": point.value}
    done = subprocess.run(
        [sys.executable, "-c", program, str(base)],
        env=environment,
        cwd=ROOT,
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    "point",
    [
        Failpoint.LEDGER_MIGRATION_OPEN,
        Failpoint.LEDGER_ANCHOR_REWRITTEN,
        Failpoint.LEDGER_CREATED_UNNAMED,
    ],
)
def test_a_creation_that_was_killed_can_be_repeated(tmp_path: Path, point: Failpoint) -> None:
    die("home.create()", point, tmp_path)
    home = Home(tmp_path)
    assert not home.database.exists()
    identity = home.create()
    ledger = home.open()
    assert ledger.read(lambda view: view.identity()) == identity
    ledger.close()


def test_killed_while_rewriting_the_anchor(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    ledger.close()
    die("home.open()", Failpoint.LEDGER_ANCHOR_REWRITTEN, tmp_path)
    ledger = Home(tmp_path).open()
    assert ledger.refusal() is None
    ledger.close()


def test_a_repair_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    home = Home(tmp_path)
    furnished(tmp_path).close()
    backup(home.state, tmp_path / "b")
    ledger = home.open()
    sign(ledger, 7)
    ledger.close()
    restore(tmp_path / "b", home.state, NOW)
    fix = "r.repair(home.state, clock=clock, principal='op', anchor=home.anchor)"
    die(fix, Failpoint.LEDGER_REPAIR_COMMITTED, tmp_path)
    ledger = home.open()
    with pytest.raises(StateCorrupt, match="LEDGER_BEHIND_ANCHOR"):
        ledger.transact(reserve(8))
    ledger.close()
    repair(home.state, clock=TestClock(NOW), principal="op", anchor=home.anchor)
    ledger = home.open()
    sign(ledger, 8)
    assert ledger.read(lambda view: view.identity().origin).startswith(ORIGIN)
    ledger.close()


def test_a_backup_that_was_killed_leaves_no_backup(tmp_path: Path) -> None:
    home = Home(tmp_path)
    furnished(tmp_path).close()
    target = tmp_path / "b"
    die("b.backup(home.state, base / 'b')", Failpoint.LEDGER_BACKUP_COPIED, tmp_path)
    assert not target.exists()
    backup(home.state, target)
    assert open_ledger(home.state, anchor=home.anchor).refusal() is None
