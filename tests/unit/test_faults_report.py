"""What is said about injected faults: merged over runs, by promise, with nothing left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import faults_report
from tests.faults_report import BEGIN, END, Report
from tests.shard_state import Outcome, State
from tests.tally import Promise, tallied

SKIPPED = '<testsuite><testcase><skipped message="no strace"/></testcase></testsuite>'


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Two of three shards have run, one of them failed; the quick tests have run as well."""
    state = State(tmp_path / "tree")
    state.keep_plan(["a", "b", "c"])
    state.keep("a", Outcome(passed=2, failed=0, skipped=1, seconds=60))
    state.keep("b", Outcome(passed=0, failed=1, skipped=0, seconds=65))
    state.report("a").write_text(SKIPPED)
    return state


def count(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *times: float, fails: bool = False
) -> None:
    """One block as tests count it, into the tally of a shard."""
    monkeypatch.setenv("KEYD_TALLY", str(folder))
    try:
        with tallied(Promise.TOKENS_RECOVER, "worker killed") as tally:
            tally.injected(len(times))
            for seconds in times:
                tally.recovered(seconds)
            assert not fails
    except AssertionError:
        assert fails


def test_all_runs_are_merged(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, state.tally("a"), 0.1, 0.2)
    count(monkeypatch, state.tally("b"), 0.4, fails=True)
    count(monkeypatch, state.quick_tally, 0.3)
    count(monkeypatch, state.tally("gone"), 9.0)
    (state.quick_tally / "report.xml").write_text(SKIPPED)
    report = faults_report.gather(state)
    [kind] = report.kinds
    assert (kind.blocks, kind.injections, kind.violations) == (3, 4, 1)
    assert sorted(kind.recovery_s) == [0.1, 0.2, 0.3, 0.4]
    assert (report.shards, report.seconds, report.quick_blocks) == ((1, 2, 3), 125, 1)
    assert report.skipped == {"no strace": 2}


def test_the_page_tells_all_of_it(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, state.tally("a"), *([0.5] * 98), 1.0, 2.0)
    text = faults_report.markdown(faults_report.gather(state))
    assert "2 of 3 shards run, 1 of them passed, in 2 min 5 s" in text
    assert "| worker killed | 1 | 100 | 0 | 0.50 s | 2.00 s | 2.00 s |" in text
    assert "- 1: no strace" in text
    # A promise that nothing was injected for is shown with its nothing.
    assert f"| {Promise.PIN_SPARED} | 0 | 0 | 0 |  |  |  |" in text


def test_a_tally_that_was_cut_by_a_kill_counts_up_to_there(state: State) -> None:
    line = {"promise": Promise.RECORDED, "fault": "f", "injections": 1}
    whole = json.dumps(line | {"violations": 0, "recovery_s": []})
    state.tally("a").mkdir()
    (state.tally("a") / "1.jsonl").write_text(f"{whole}\n{whole[:20]}")
    [kind] = faults_report.gather(state).kinds
    assert kind.injections == 1


def test_a_run_again_counts_anew(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, state.tally("b"), 0.1, fails=True)
    state.begin("b")
    assert state.outcome("b") is None
    assert faults_report.gather(state).kinds == []


def test_figures_survive_json_and_go_between_the_markers(
    state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count(monkeypatch, state.tally("a"), 0.1)
    written = faults_report.write(state, tmp_path / "build")
    assert written.read_text().startswith("# Faults injected\n")
    report = Report.of_json((tmp_path / "build" / "faults.json").read_text())
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    faults_report.put_into(page, report)
    once = page.read_text()
    assert once.startswith(f"before\n{BEGIN}\n| Promise |")
    assert once.endswith(f"\n{END}\nafter\n")
    assert "Not run: 1 of them." in once
    assert "old" not in once
    faults_report.put_into(page, report)
    assert page.read_text() == once


def test_what_cannot_be_read_or_written_is_left_alone(tmp_path: Path, state: State) -> None:
    with pytest.raises(ValueError, match="run make test-all again"):
        Report.of_json('{"format": 0}')
    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="faults:begin"):
        faults_report.put_into(page, faults_report.gather(state))
    assert page.read_text() == "no markers\n"
