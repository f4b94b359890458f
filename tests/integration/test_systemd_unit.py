"""The unit file: how much it shuts in, and that the daemon still works inside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Daemon, keyd

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "contrib" / "systemd" / "keyd.service"
analyze = shutil.which("systemd-analyze") or ""
needs_systemd = pytest.mark.skipif(not analyze, reason="systemd-analyze is not installed")


def settings() -> Iterator[tuple[str, str]]:
    """The assignments of the unit in their order."""
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


@needs_systemd
def test_exposure() -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=yes", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    match = re.search(r"Overall exposure level for keyd.service: ([0-9.]+)", done.stdout)
    assert match is not None, done.stderr
    assert float(match[1]) <= 1.5


def test_what_reliability_rests_on() -> None:
    found = dict(settings())
    assert found["Type"] == "notify"
    assert found["RestartPreventExitStatus"] == "78"
    assert found["LimitCORE"] == "0"
    assert found["MemorySwapMax"] == "0"
    assert found["UMask"] == "0077"
    assert found["LoadCredentialEncrypted"].startswith("token-pin:")
    assert found["User"] == "keyd"
    # systemd must not give up before the daemon itself would have.
    assert float(found["TimeoutStartSec"].rstrip("s")) > 30
    assert float(found["TimeoutStopSec"].rstrip("s")) > 10 + 5


def test_the_command_is_one_that_exists() -> None:
    command = dict(settings())["ExecStart"].split()
    assert command[:2] == ["/usr/bin/keyd", "serve"]
    assert keyd("serve", "--help").code == 0
    assert "--config" in keyd("serve", "--help").out


def system_calls(group: str) -> set[str]:
    """The calls of a systemd set, groups in it resolved."""
    done = subprocess.run(
        [analyze, "syscall-filter", group], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for line in done.stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= system_calls(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def allowed_calls() -> set[str]:
    """What the unit's filter lets through, assignments applied in their order."""
    allowed = system_calls("@default")
    for name, value in settings():
        if name == "SystemCallFilter":
            for group in value.removeprefix("~").split():
                named = system_calls(group) if group.startswith("@") else {group}
                allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@needs_systemd
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_no_system_call_of_daemon_or_worker_is_filtered(tmp_path: Path) -> None:
    """A whole life, traced: start, keys, signatures, reload, drain, end."""
    log, trace = tmp_path / "log", tmp_path / "trace"
    strace = ["strace", "-D", "-f", "-qq", "-o", str(trace)]
    with tempfile.TemporaryDirectory(prefix="keyd-unit-", dir="/tmp") as name:
        folder = Path(name) / "d"
        with Daemon(["dev", "--dir", str(folder)], log, launcher=strace) as daemon:
            daemon.wait_for_file(folder / "ready")
            daemon.send(signal.SIGHUP)
            daemon.wait_for("reloaded")
            assert daemon.stop() == 0
    lines = trace.read_text(errors="replace").splitlines()
    called = {match[1] for line in lines if (match := re.match(r"\d+ +([a-z_0-9]+)\(", line))}
    assert len(called) > 50
    refused = called - allowed_calls()
    # SQLite gives its files to the database's owner when it runs as root, which the unit does not.
    assert refused - {"fchown"} == set()


_NO_MDWE = 200
_SANDBOX = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    os._exit(200)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_runs_without_new_executable_memory(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute, as the kernel itself enforces it (Linux 6.3 and later)."""
    shut_in = [sys.executable, "-c", _SANDBOX]
    with tempfile.TemporaryDirectory(prefix="keyd-unit-", dir="/tmp") as name:
        folder = Path(name) / "d"
        with Daemon(["dev", "--dir", str(folder)], tmp_path / "log", launcher=shut_in) as daemon:
            try:
                daemon.wait_for_file(folder / "ready")
            except AssertionError:
                if daemon.running.poll() == _NO_MDWE:
                    pytest.skip("this kernel has no PR_SET_MDWE")
                raise
            assert daemon.stop() == 0
