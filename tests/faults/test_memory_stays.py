"""What a process that has seen secrets leaves behind when it dies, and shows while it lives."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.backends.process import WORKER_COMMAND, WorkerProcess
from keyd.wire.frames import encode_frame
from keyd.wire.worker_pb2 import Probe, Request, ToWorker
from tests.daemon import Installation
from tests.tally import Promise, tallied

ANSWER_S = 30.0
NOBODY = 65534
DEADLY = (signal.SIGABRT, signal.SIGSEGV, signal.SIGQUIT)


@pytest.fixture
def cores_allowed() -> Iterator[None]:
    """As a careless host: whoever does not say otherwise leaves a core as large as it likes."""
    # What a shell starts in the background ignores it, and so do its children.
    quits = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this process may not allow cores (its hard RLIMIT_CORE is 0)")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)
    signal.signal(signal.SIGQUIT, quits)


def dumped(pid: int) -> bool:
    """Wait until a child has died by a signal; whether the kernel wrote its memory out."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    return ended.si_code == os.CLD_DUMPED


def started_worker() -> WorkerProcess:
    """One that is past its hardening: it answers."""
    worker = WorkerProcess(WORKER_COMMAND, {}, development=False)
    worker.socket.settimeout(ANSWER_S)
    question = ToWorker(requests=[Request(id=1, probe=Probe())])
    worker.socket.sendall(encode_frame(question.SerializeToString()))
    assert worker.socket.recv(4096)
    return worker


@pytest.mark.usefixtures("cores_allowed")
def test_the_kernel_would_write_cores(tmp_path: Path) -> None:
    """The control of the tests below."""
    command = [sys.executable, "-c", "import os; os.abort()"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        if not dumped(process.pid):
            pytest.skip("this kernel writes no cores, so their absence proves nothing")


@pytest.mark.usefixtures("cores_allowed")
def test_a_worker_leaves_no_core() -> None:
    with tallied(Promise.SECRETS_KEPT, "a deadly signal") as tally:
        for number in DEADLY:
            worker = started_worker()
            os.kill(worker.pid, number)
            tally.injected()
            assert not dumped(worker.pid)
            worker.socket.close()
            assert worker.reap() == -number


@pytest.mark.usefixtures("cores_allowed")
def test_the_daemon_leaves_no_core(installation: Installation) -> None:
    with tallied(Promise.SECRETS_KEPT, "a deadly signal") as tally, installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        daemon.send(signal.SIGABRT)
        tally.injected()
        assert not dumped(daemon.running.pid)


_PROCESS = """
import ctypes, os, sys
{imports}
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of identity takes away
{harden}
print("ready", flush=True)
sys.stdin.read()
"""
HARDENINGS = {
    "none": ("", ""),
    "worker": ("from keyd.worker import hardening", "hardening.harden()"),
    "daemon": ("from keyd.daemon import hardening", "hardening.harden_process()"),
}
PLACES = ("environ", "mem", "maps", "fd", "auxv")


def read_by_its_own_user(process: int) -> set[str]:
    """Which places of /proc another process of the same user can open."""
    become: list[str] = []
    if os.geteuid() == 0:
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if shutil.which("setpriv") is None:
            pytest.skip(
                "setpriv is not installed: root may look at everything, which shows nothing"
            )
    look = f"cd /proc/{process}; for x in {' '.join(PLACES)}; do "
    look += 'if [ -d $x ]; then ls $x; else : < $x; fi >/dev/null 2>&1 && echo "$x"; done; :'
    shown = subprocess.run(
        [*become, "bash", "-c", look], capture_output=True, text=True, check=False, cwd="/"
    )
    return set(shown.stdout.split())


@pytest.mark.parametrize("kind", HARDENINGS)
def test_its_own_user_cannot_look_into_it(kind: str) -> None:
    """Not even a process of keyd's own user, such as the module in another token's worker."""
    imports, harden = HARDENINGS[kind]
    script = _PROCESS.format(imports=imports, harden=harden, uid=NOBODY)
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        shown = read_by_its_own_user(process.pid)
    if kind == "none":
        assert shown >= {"environ", "fd", "auxv"}, "the control shows nothing: the test is blind"
    else:
        assert not shown
