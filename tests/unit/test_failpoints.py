"""Failpoints kill where and when they are told to, and refuse to inject nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from keyd.failpoints import Failpoint, failpoint
for n in range(3):
    print(n, flush=True)
    failpoint(Failpoint.LEDGER_GROUP_WRITTEN)
    failpoint(Failpoint.LEDGER_GROUP_COMMITTED)
"""


def run(setting: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "KEYD_FAILPOINT"}
    if setting is not None:
        environment["KEYD_FAILPOINT"] = setting
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("setting", "printed"),
    [("ledger.group_committed", "0\n"), ("ledger.group_committed:3", "0\n1\n2\n")],
)
def test_kills_at_the_named_passage(setting: str, printed: str) -> None:
    done = run(setting)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == printed


@pytest.mark.parametrize("setting", [None, "ledger.group_committed:4", "ledger.backup_copied"])
def test_does_nothing_elsewhere(setting: str | None) -> None:
    assert run(setting).returncode == 0


def test_passages_count_only_while_the_file_exists(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    assert run(f"ledger.group_committed:2@{armed}").returncode == 0
    armed.touch()
    done = run(f"ledger.group_committed:2@{armed}")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "0\n1\n"


@pytest.mark.parametrize("setting", ["ledger.typo", "ledger.group_committed:0", "ledger:x"])
def test_a_setting_that_would_inject_nothing_is_an_error(setting: str) -> None:
    done = run(setting)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
