"""Power losses, replayed: recorded system calls with unflushed writes dropped (B1)."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.ledger.verification.verify import verify_ledger
from tests.faults.acknowledged import missing, told_by
from tests.faults.disk_recording import Kind, Step, record
from tests.faults.disk_replay import Disk, State, states
from tests.faults.killing import new_seed
from tests.ledgers import Home, furnished
from tests.tally import Promise, Tally, tallied

SIGN = "from tests.faults.ledger_program import main; main({base!r}, 3, {last})"
# As if somebody had set the pragma for speed.
WEAKLY = """
import keyd.ledger.writer as writer
connect = writer.connect_writer
def weak(path):
    connection = connect(path)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection
writer.connect_writer = weak
"""


@dataclass(frozen=True)
class Recording:
    """What a program did, and the files it began with."""

    before: Path
    steps: Sequence[Step]
    known: Collection[str]  # the pieces of work in tests/ledgers.py publish no root metadata


def recorded(tmp_path: Path, last: int, patch: str = "") -> Recording:
    base, before = tmp_path / "base", tmp_path / "before"
    base.mkdir(mode=0o700)
    furnished(base).close()
    shutil.copytree(base, before)
    steps = record(base, tmp_path / "trace", patch + SIGN.format(base=str(base), last=last))
    kinds = Counter(step.kind for step in steps)
    print(kinds)
    assert kinds[Kind.TOLD] == 3 * 2 * last + 1
    assert min(kinds[Kind.WRITE], kinds[Kind.FLUSHED], kinds[Kind.RENAME], kinds[Kind.CREATE])
    return Recording(before, steps, set(flaws_of(Home(base))))


def losses(recording: Recording, folder: Path, count: int, tally: Tally) -> Counter[str]:
    """Open what each power loss leaves; how many of which outcome."""
    outcomes: Counter[str] = Counter()
    seed = new_seed()
    for state in states(Disk.of(recording.before), recording.steps, count, seed):
        base = folder / "state"
        state.write_to(base)
        since = time.monotonic()
        outcome = look(state, Home(base), recording.known)
        tally.injected()
        tally.recovered(time.monotonic() - since)
        outcomes[outcome] += 1
        shutil.rmtree(base)
    print(dict(outcomes))
    return outcomes


def look(state: State, home: Home, known: Collection[str]) -> str:
    """`whole`, `lost` or `corrupt: ...`; what an anchor lost makes it older, never a refusal."""
    ledger = home.open()
    lost, refusal = missing(ledger, told_by(state.told)), ledger.refusal()
    ledger.close()
    if lost:
        return "lost"
    if refusal is not None:
        return f"corrupt: {refusal}"
    flaws = [flaw for flaw in flaws_of(home) if flaw not in known]
    return f"corrupt: {flaws}" if flaws else "whole"


def flaws_of(home: Home) -> list[str]:
    return [flaw.what for flaw in verify_ledger(home.state, anchor=home.anchor).flaws]


def check_power_losses(tmp_path: Path, in_memory: Path, last: int, count: int) -> None:
    recording = recorded(tmp_path, last)
    fault = "power loss, unflushed writes lost or torn"
    with (
        tallied(Promise.RECORDED, fault) as recorded_,
        tallied(Promise.STATE_GUARDED, fault) as guarded,
    ):
        outcomes = losses(recording, in_memory, count, recorded_)
        guarded.injected(count)
        assert outcomes == {"whole": count}


def test_power_losses(tmp_path: Path, in_memory: Path) -> None:
    check_power_losses(tmp_path, in_memory, last=8, count=60)


@pytest.mark.slow(seconds=90)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(6))
def test_power_losses_3000_times(tmp_path: Path, in_memory: Path, part: int) -> None:
    check_power_losses(tmp_path, in_memory, last=10 + 10 * part, count=500)


def test_commits_without_a_flush_would_be_found_lost(tmp_path: Path, in_memory: Path) -> None:
    """The replay bites: with synchronous = NORMAL what was acknowledged is lost."""
    recording = recorded(tmp_path, 8, WEAKLY)
    seed = new_seed()
    for state in states(Disk.of(recording.before), recording.steps, 60, seed):
        state.write_to(in_memory / "state")
        if look(state, Home(in_memory / "state"), recording.known) == "lost":
            return
        shutil.rmtree(in_memory / "state")
    pytest.fail("no loss was noticed")
