"""What a module may ask of the kernel, tried by a module that asks for everything."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.domain.tokens import TokenState
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import build_shim
from tests.fleets import config_for, make_key, running, sign_one
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied

SOURCE = Path(__file__).with_name("trespasser.c")
# How each attempt ends with no filter at all depends on privileges for these.
ROOTS_ALONE = {"bpf", "init_module", "kexec_load", "open_by_handle_at", "userfaultfd"}
# These fall back to what is allowed, or need not exist.
NOT_THERE = {"clone3", "a call of tomorrow"}
SOCKETS = {"unix", "inet", "inet6", "netlink"}
HARMLESS = {"thread", "kill itself", "own limits"}
REACHED = {
    "files": set(),
    "unix": {"unix"},
    "network": SOCKETS,
}
Trespass = Callable[[str], dict[str, int]]


@pytest.fixture(scope="session")
def trespasser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the trespasser knows the system calls of x86_64 and aarch64 only")
    return build_shim(tmp_path_factory.mktemp("trespasser"), SOURCE)


@pytest.fixture
def trespass(
    trespasser: Path, softhsm: SoftHSMToken, journal: MemoryTokenJournal, tmp_path: Path
) -> Trespass:
    """Run a real worker with this sandbox until it has signed; how the attempts ended, by errno."""
    report = tmp_path / "report"
    environment = {
        **softhsm.env,
        "KEYD_SHIM_MODULE": str(softhsm.module),
        "KEYD_TRESPASS_TO": str(report),
    }

    def run(sandbox: str) -> dict[str, int]:
        config = config_for(softhsm, module=trespasser, environment=environment, sandbox=sandbox)
        with running(config, journal=journal) as fleet:
            token = fleet.get("test")
            sign_one(token, make_key(token, journal))
        lines = report.read_text().splitlines()
        return {name: int(code) for name, _, code in (line.rpartition(" ") for line in lines)}

    return run


@pytest.mark.parametrize("sandbox", REACHED)
def test_a_module_gets_no_further_than_its_sandbox(sandbox: str, trespass: Trespass) -> None:
    with tallied(Promise.SECRETS_KEPT, "a module that breaks out") as tally:
        ended = trespass(sandbox)
        granted = HARMLESS | REACHED[sandbox]
        assert {name for name, code in ended.items() if code == 0} == granted
        for name in ended.keys() - granted:
            expected = errno.ENOSYS if name in NOT_THERE else errno.EPERM
            assert ended[name] == expected, name
            tally.injected()


def test_without_a_sandbox_the_same_attempts_reach_the_kernel(trespass: Trespass) -> None:
    """What the test above measures is the filter, not the machine it runs on."""
    ended = trespass("off")
    unclear = set() if os.geteuid() == 0 else ROOTS_ALONE | {"packet", "limits of others"}
    stopped = {name for name, code in ended.items() if code == errno.EPERM}
    assert stopped <= unclear | {"perf_event_open", "io_uring_setup", "userfaultfd", "bpf"}
    worked = {"new process", "kill", "core dumps", "dumpable", "setuid", "unshare", "inet"}
    assert {name for name in worked if ended[name] == 0} == worked


def test_without_its_filter_a_worker_loads_no_module(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal, tmp_path: Path
) -> None:
    """libseccomp is missing: fail closed, and say how to mend it."""
    program = tmp_path / "worker.py"
    program.write_text(
        "from keyd.worker import __main__, sandbox\n"
        "sandbox._LIBRARY = 'libnowhere.so'\n"
        "__main__.main()\n"
    )
    command = (sys.executable, str(program))
    with tallied(Promise.SECRETS_KEPT, "no libseccomp") as tally:
        for sandbox, state in {"unix": TokenState.OFFLINE, "off": TokenState.ONLINE}.items():
            config = config_for(softhsm, sandbox=sandbox)
            with running(config, journal=journal, worker_command=command) as fleet:
                status = fleet.get("test").status()
            assert status.state is state
            tally.injected()
            if state is TokenState.OFFLINE:
                assert "NO_LIBSECCOMP" in status.detail
                assert "install libseccomp2" in status.detail


def in_a_process(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


_I386 = """
import ctypes, mmap, os, sys
from keyd.worker.sandbox import Sandbox, confine
confine(Sandbox(sys.argv[1]))
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")  # mov eax, 20 (getpid of i386); int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(call() == os.getpid())
"""


def test_the_numbers_of_another_architecture_are_no_way_round() -> None:
    if platform.machine() != "x86_64" or in_a_process(_I386, "off").stdout != "True\n":
        pytest.skip("this machine does not run calls of i386")
    with tallied(Promise.SECRETS_KEPT, "a call of another architecture") as tally:
        assert in_a_process(_I386, "network").returncode == -signal.SIGSYS
        tally.injected()


_BELOW_ANOTHER_FILTER = """
import os, sys
from keyd.worker import sandbox
if len(sys.argv) == 1:  # as a service manager: seccomp(2) is denied to what is started from here
    service = sandbox._Filter()
    service.add(sandbox._Rule("seccomp"))
    service.load()
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], "inside"])
sandbox.confine(sandbox.Sandbox.UNIX)
try:
    os.fork()
except PermissionError:
    print("denied")
"""


def test_it_can_be_set_up_where_seccomp_itself_is_filtered() -> None:
    """By prctl, which every service may call."""
    done = in_a_process(_BELOW_ANOTHER_FILTER)
    assert done.stdout == "denied\n", done.stderr
