"""What the daemon goes without, seen in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SERVE = """
import sys
from keyd.cli.main import main
sys.argv = ["keyd", "serve", "--help"]
try:
    main()
finally:
    present = sorted(name for name, module in sys.modules.items() if module is not None)
    print([name for name in present if name.partition(".")[0] in {unwanted!r}])
    print("keyd.daemon.run" in present)
"""
_HEAPS = """
import ctypes, sys, threading
from keyd.daemon.frugal import be_frugal
if {frugal}:
    be_frugal()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
here = threading.Barrier(6)
def allocate():
    libc.malloc(1000)
    here.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


def _output(script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_daemon_imports_no_terminal_and_neither_tokens_nor_clients() -> None:
    unwanted = ("rich", "pygments", "pkcs11", "asn1crypto", "tuf", "urllib3")
    *_, found, served = _output(_SERVE.format(unwanted=unwanted)).splitlines()
    assert served == "True"
    assert found == "[]"


def test_threads_share_one_heap() -> None:
    if "<malloc" not in _output(_HEAPS.format(frugal=False)):
        pytest.skip("this C library is not glibc: it has no arenas to limit")
    assert _output(_HEAPS.format(frugal=False)).count("<heap nr=") > 1
    assert _output(_HEAPS.format(frugal=True)).count("<heap nr=") == 1
