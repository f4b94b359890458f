"""What a module may ask of the kernel, tried by a module that asks for everything."""

from __future__ import annotations

import errno
import os
import platform
import sys
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
