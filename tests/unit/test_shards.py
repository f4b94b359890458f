"""The runner of slow tests, on a repository of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import shard_run, shards
from tests.shard_run import SlowTest
from tests.shard_state import Outcome, State

ROOT = Path(__file__).resolve().parents[2]

SLOW_TESTS = """
import pathlib, pytest

@pytest.mark.slow(seconds=300)
def test_one():
    pathlib.Path("build/ran").open("a").write("one ")

@pytest.mark.slow(seconds=300)
def test_two():
    pathlib.Path("build/ran").open("a").write("two ")
    assert not pathlib.Path("build/break").exists()

def test_quick():
    pathlib.Path("build/ran").open("a").write("quick ")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_slow.py").write_text(SLOW_TESTS)
    settings = "[pytest]\nmarkers = slow: slow\naddopts = -p no:randomly\n"
    (tmp_path / "pytest.ini").write_text(settings)
    (tmp_path / ".gitignore").write_text("build/\n__pycache__/\n.pytest_cache/\n")
    (tmp_path / "build").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path)
    return tmp_path


def commit(repository: Path) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *identity, *command], cwd=repository, check=True)


def run_shards(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start_shards(repository, *arguments) as process:
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_shards(repository: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "shards.py"), *arguments],
        cwd=repository,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(repository: Path) -> str:
    path = repository / "build" / "ran"
    return path.read_text() if path.exists() else ""


def test_runs_only_slow_tests_and_only_once(repository: Path) -> None:
    first = run_shards(repository)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.endswith("2 passed, 0 failed, 0 skipped\n")
    assert ran(repository) == "one two "
    again = run_shards(repository)
    assert again.stdout.endswith("2 passed, 0 failed, 0 skipped\n")
    assert ran(repository) == "one two "


def test_failed_shard_is_run_again_and_passed_one_is_not(repository: Path) -> None:
    (repository / "build" / "break").touch()
    failed = run_shards(repository)
    assert failed.returncode == 1
    assert failed.stdout.endswith("1 passed, 1 failed, 0 skipped\n")
    (repository / "build" / "break").unlink()
    assert run_shards(repository).returncode == 0
    assert ran(repository) == "one two two "


@pytest.mark.parametrize("name", ["tests/test_slow.py", "new.txt"])
def test_any_edit_runs_everything_again(repository: Path, name: str) -> None:
    run_shards(repository)
    with (repository / name).open("a") as file:
        file.write("# edited\n")
    run_shards(repository)
    assert ran(repository) == "one two one two "


def test_neither_documentation_nor_a_commit_runs_anything_again(repository: Path) -> None:
    run_shards(repository)
    (repository / "new.txt").write_text("will be committed\n")
    run_shards(repository)
    (repository / "README.md").write_text("what the run came to\n")
    commit(repository)
    run_shards(repository)
    assert ran(repository) == "one two one two "


def test_shards_are_shared_out_between_machines(repository: Path) -> None:
    second = run_shards(repository, "--shard", "2/2")
    assert "shard 2 of 2: passed now" in second.stdout
    assert ran(repository) == "two "


def test_uncollectable_tests_are_an_error_not_an_empty_run(repository: Path) -> None:
    (repository / "tests" / "test_slow.py").write_text("import no_such_module\n")
    broken = run_shards(repository)
    assert broken.returncode == 1
    assert "no_such_module" in broken.stderr


STUCK = """
import pytest, threading

@pytest.mark.slow(seconds=1)
@pytest.mark.timeout(500)
def test_a_stuck():
    print("this was said")
    {stuck}

@pytest.mark.slow(seconds=1)
def test_b():
    pass
"""


@pytest.fixture
def hurried(repository: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Shards of seconds, not minutes."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(shard_run, "ENDED_S", 4)
    monkeypatch.setattr(shard_run, "GRACE_S", 2)
    state = State(repository / "build" / "state")
    state.keep_plan(["stuck"])
    return state


def run_stuck(repository: Path, state: State, stuck: str) -> Outcome:
    (repository / "tests" / "test_slow.py").write_text(STUCK.format(stuck=stuck))
    (repository / "tests" / "conftest.py").write_text("pytest_plugins = ['tests.hanging']\n")
    tests = [SlowTest(f"tests/test_slow.py::{name}", 1) for name in ("test_a_stuck", "test_b")]
    return shard_run.run({"stuck": tests}, state, 1)["stuck"]


def test_a_test_that_outlasts_its_shard_fails_and_shows_what_it_did(
    repository: Path, hurried: State, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_stuck(repository, hurried, "threading.Event().wait()")
    assert (outcome.passed, outcome.failed) == (0, 2)
    assert "1 not run" in outcome.note
    for shown in (hurried.log("stuck").read_text(), capsys.readouterr().out):
        assert "this was said" in shown
        assert "threading.Event().wait()" in shown


def test_a_test_that_cannot_be_failed_is_ended_with_its_stacks(
    repository: Path, hurried: State
) -> None:
    """As one that waits inside a library, where no signal handler of Python's gets its turn."""
    stuck = "import signal; signal.pthread_sigmask(0, {14}); threading.Event().wait()"
    outcome = run_stuck(repository, hurried, stuck)
    assert (outcome.ok, outcome.note) == (False, "pytest ended with 1")
    assert "test_a_stuck" in hurried.log("stuck").read_text()


def test_what_withstands_everything_is_killed(
    repository: Path, hurried: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "LIMIT_S", 2)
    outcome = run_stuck(repository, hurried, "threading.Event().wait()")
    assert (outcome.ok, outcome.note) == (False, "killed after 2 s")


MEETING = """
import pathlib, pytest, time

@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.slow(seconds=300{lane})
def test_meets(number):
    here = pathlib.Path("build") / f"here{{number}}"
    here.touch()
    other = here.with_name(f"here{{1 - number}}")
    deadline = time.monotonic() + {wait_s}
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    met = other.exists()
    here.unlink()
    assert met == {met}
"""


@pytest.mark.parametrize(("lane", "wait_s", "met"), [("", 60, True), (", lane='x'", 1, False)])
def test_shards_run_side_by_side_unless_in_one_lane(
    repository: Path, lane: str, wait_s: int, met: bool
) -> None:
    """Those that may, wait for each other; two of one lane never see each other."""
    source = MEETING.format(lane=lane, wait_s=wait_s, met=met)
    if met:
        source = source.replace("    here.unlink()\n", "")
    (repository / "tests" / "test_slow.py").write_text(source)
    both = run_shards(repository, "--jobs", "2")
    assert both.stdout.endswith("2 passed, 0 failed, 0 skipped\n"), both.stdout + both.stderr


def test_interrupted_shard_is_ended_and_run_again_and_no_other(repository: Path) -> None:
    waiting = SLOW_TESTS.replace(
        "    assert not pathlib",
        "    import time; time.sleep(60 * pathlib.Path('build/break').exists())\n    # not pathlib",
    )
    (repository / "tests" / "test_slow.py").write_text(waiting)
    (repository / "build" / "break").touch()
    with start_shards(repository) as process:
        deadline = time.monotonic() + 60
        while ran(repository) != "one two " and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(repository) not in listed.stdout
    (repository / "build" / "break").unlink()
    assert run_shards(repository).stdout.endswith("2 passed, 0 failed, 0 skipped\n")
    assert ran(repository) == "one two two "


def test_packing_keeps_order_and_limit() -> None:
    tests = [SlowTest(f"t{number}", seconds) for number, seconds in enumerate([160] * 5 + [480, 9])]
    packed = shards.pack(tests)
    assert [test for shard in packed for test in shard] == tests
    assert [len(shard) for shard in packed] == [2, 2, 1, 1, 1]


def test_test_too_long_for_a_shard_is_refused() -> None:
    with pytest.raises(SystemExit, match="split it"):
        shards.pack([SlowTest("t", shards.LONGEST_S + 1)])


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_nonsense_parts_are_refused(part: str) -> None:
    with pytest.raises(SystemExit, match="n/m"):
        shards.mine(1, part)


def test_shard_without_a_test_is_not_passed() -> None:
    assert not Outcome(passed=0, failed=0, skipped=0, seconds=1).ok


TALLYING = """
import os, pytest
from tests.tally import Promise, tallied

@pytest.mark.slow(seconds={seconds})
def test_{name}():
    with tallied(Promise.RECORDED, "fault {name}") as tally:
        tally.injected(3)
"""


def test_tallies_of_several_runs_are_summed_up(repository: Path) -> None:
    """One shard now, one later, the quick tests in between: all of it stands in the report."""
    slow = "".join(TALLYING.format(name=name, seconds=300) for name in ("one", "two"))
    (repository / "tests" / "test_slow.py").write_text(slow)
    run_shards(repository, "--shard", "1/2")
    folder = Path(run_shards(repository, "--quick-tally").stdout.strip())
    folder.mkdir()
    line = '{"promise": "the same bytes get the recorded signature", "fault": "quick", '
    (folder / "1.jsonl").write_text(line + '"injections": 5, "violations": 0, "recovery_s": []}\n')
    run_shards(repository, "--shard", "2/2")
    text = (repository / "build" / "faults.md").read_text()
    assert "2 of 2 shards run, 2 of them passed" in text
    for row in ("fault one | 1 | 3 | 0", "fault two | 1 | 3 | 0", "quick | 1 | 5 | 0"):
        assert row in text
    assert run_shards(repository, "--quick-tally").stdout.strip() == str(folder)
    assert not folder.exists()
