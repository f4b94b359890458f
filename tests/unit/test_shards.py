"""The runner of slow tests, on a repository of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import shards
from tests.shard_state import Outcome
from tests.shards import SlowTest

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
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: slow\n")
    (tmp_path / ".gitignore").write_text("build/\n__pycache__/\n.pytest_cache/\n")
    (tmp_path / "build").mkdir()
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    return tmp_path


def run_shards(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "shards.py"), *arguments],
        cwd=repository,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
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


def test_shards_are_shared_out_between_machines(repository: Path) -> None:
    second = run_shards(repository, "--shard", "2/2")
    assert "shard 2 of 2: passed now" in second.stdout
    assert ran(repository) == "two "


def test_uncollectable_tests_are_an_error_not_an_empty_run(repository: Path) -> None:
    (repository / "tests" / "test_slow.py").write_text("import no_such_module\n")
    broken = run_shards(repository)
    assert broken.returncode == 1
    assert "no_such_module" in broken.stderr


def test_shard_that_exceeds_its_time_is_killed_and_failed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "tests" / "test_slow.py").write_text(
        "def test_stuck():\n    import threading\n    threading.Event().wait()\n"
    )
    monkeypatch.chdir(repository)
    monkeypatch.setattr(shards, "LIMIT_S", 2)
    stuck = [SlowTest("tests/test_slow.py::test_stuck", 1)]
    outcome = shards.run(stuck, repository / "r.xml", repository / "tally")
    assert (outcome.ok, outcome.note) == (False, "killed after 2 s")


def test_packing_keeps_order_and_limit() -> None:
    tests = [SlowTest(f"t{number}", 200) for number in range(5)]
    packed = shards.pack(tests)
    assert [test for shard in packed for test in shard] == tests
    assert [len(shard) for shard in packed] == [2, 2, 1]


def test_test_too_long_for_a_shard_is_refused() -> None:
    with pytest.raises(SystemExit, match="split it"):
        shards.pack([SlowTest("t", shards.LIMIT_S)])


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_nonsense_parts_are_refused(part: str) -> None:
    with pytest.raises(SystemExit, match="n/m"):
        shards.mine(0, part)


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
