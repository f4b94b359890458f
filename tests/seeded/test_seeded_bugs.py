"""Each gate turns red when the bug it is there for is put back, and is green without it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.seeded.bugs import Bug, read_bugs
from tests.seeded.tree import Edit, Tree, seeded
from tests.tally import tallied

# One for the order of a signature and one for what callers may do; their gates are quick.
SMOKE = ("the recorded signature is not given again", "a call that names no resource passes")
BUGS = read_bugs()
GATES = sorted({gate for bug in BUGS for gate in bug.gate})
PARTS = 6
HONEST_S = 120


@pytest.fixture
def folder() -> Iterator[Path]:
    """For a tree; unlike `tmp_path` it does not stay, for there are many."""
    with tempfile.TemporaryDirectory(prefix="keyd-seeded-") as name:
        yield Path(name)


def quick(bug: Bug) -> bool:
    return bug.name in SMOKE


def slowly(bug: Bug) -> object:
    return pytest.param(bug, marks=pytest.mark.slow(seconds=bug.seconds), id=bug.name)


def check_caught(bug: Bug, folder: Path) -> None:
    with tallied(bug.breaks, "a seeded bug, to be caught by its gate") as tally:
        tally.injected()
        verdict = Tree(folder / "tree", bug.edits).run(bug.gate, bug.timeout_s)
        assert verdict.red, f"{bug.name}: the gate did not fail by itself\n{verdict.output}"
        shown = "\n".join(verdict.failures)
        assert bug.shown_in(shown), f"{bug.name}: failed, but by something else\n{shown}"


@pytest.mark.parametrize("bug", [*filter(quick, BUGS)], ids=lambda bug: bug.name)
def test_a_quick_gate_turns_red(bug: Bug, folder: Path) -> None:
    check_caught(bug, folder)


@pytest.mark.parametrize("bug", [slowly(bug) for bug in BUGS if not quick(bug)])
def test_a_gate_turns_red(bug: Bug, folder: Path) -> None:
    check_caught(bug, folder)


@pytest.mark.slow(seconds=HONEST_S)
@pytest.mark.parametrize("part", range(PARTS))
def test_gates_are_green_without_bugs(part: int, folder: Path) -> None:
    """In the same kind of tree, so that it is the bug that turned them red."""
    verdict = Tree(folder / "tree").run(GATES[part::PARTS], HONEST_S)
    assert verdict.green, verdict.output


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_fits(bug: Bug) -> None:
    """Code that has moved on takes its bugs along: else a gate would silently go unproved."""
    seeded(bug.edits)


def test_names_tell_bugs_apart() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert set(SMOKE) <= {bug.name for bug in BUGS}


@pytest.mark.parametrize("old", ["no such code", "import"])
def test_an_edit_that_does_not_fit_once_is_an_error(old: str) -> None:
    with pytest.raises(ValueError, match="not once"):
        seeded([Edit("keyd/services/sign.py", old, "")])


def test_a_bug_that_is_broken_itself_proves_nothing(folder: Path) -> None:
    typo = Edit(
        "keyd/domain/policy.py", "if action.method not in METHODS:", "if action.no_such_name:"
    )
    gate = "tests/unit/policy/test_decide.py::test_empty_policy_allows_nothing"
    verdict = Tree(folder / "tree", [typo]).run([gate], 60)
    assert verdict.failures
    assert not verdict.red
