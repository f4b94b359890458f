"""A test that nothing can end costs its own failure, not the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

_TESTS = """
import threading

def test_that_waits_for_ever_even_when_it_is_over():
    try:
        threading.Event().wait()
    finally:
        threading.Event().wait()

def test_behind_it():
    pass
"""


def test_a_hanging_test_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    path = tmp_path / "test_hang.py"
    path.write_text(_TESTS)
    options = ["-n1", "-p", "tests.hanging", "-p", "no:cacheprovider", "-p", "no:randomly"]
    limits = ["-o", "timeout=1", "-o", "hanging_grace=1"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *limits, "--rootdir", tmp_path, path],
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "crashed while running 'test_hang.py::test_that_waits_for_ever" in done.stdout
    # All stacks, the hanging place among them.
    assert f'"{path}", line 8 in test_that_waits_for_ever' in done.stderr
