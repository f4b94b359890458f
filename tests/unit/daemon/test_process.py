"""What the process does to itself: logs, signals, notification."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from keyd.daemon import systemd
from keyd.daemon.metrics_http import serve_metrics
from keyd.daemon.signals import ForcedStop, Signals, Wish
from keyd.errors import InvalidRequest


def in_a_process(script: str, redirect: str = "") -> list[str]:
    """Run it with our interpreter; returns the lines of its standard error."""
    command = ["bash", "-c", f'"$0" -c "$1" {redirect}', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


LOGS = """
import logging, structlog
from keyd.daemon.logs import configure_logs
configure_logs("info", "json")
structlog.get_logger("keyd.x").debug("hidden")
structlog.get_logger("keyd.x").info("shown", key="root-1")
logging.getLogger("grpc").info("hidden too")
logging.getLogger("grpc").error("from a library")
"""


def test_every_line_is_one_json_object() -> None:
    ours, theirs = (json.loads(line) for line in in_a_process(LOGS))
    assert ours["event"] == "shown"
    assert ours["key"] == "root-1"
    assert ours["level"] == "info"
    assert ours["time"].endswith("Z")
    assert theirs["event"] == "from a library"
    assert theirs["level"] == "error"


@pytest.mark.parametrize("redirect", ["2>&-", "2> >(exec true; )", "2>/dev/full"])
def test_a_log_that_nobody_takes_does_not_stop_the_daemon(redirect: str) -> None:
    patient = LOGS + "for _ in range(20):\n    logging.error('again')\n"
    assert in_a_process(patient, redirect) == []


def test_failed_handshakes_write_nothing_past_the_log() -> None:
    script = """
import keyd.daemon, grpc, socket
from concurrent.futures import ThreadPoolExecutor
from tests.certificates import Authority
authority = Authority()
pair = authority.server()
credentials = grpc.ssl_server_credentials(
    [(pair.key, pair.certificate)], authority.certificate, True
)
server = grpc.server(ThreadPoolExecutor(1))
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
with socket.create_connection(("127.0.0.1", port)) as peer:
    peer.sendall(b"no handshake" * 20)
    try:
        while peer.recv(100):
            pass
    except ConnectionResetError:
        pass
server.stop(0).wait()
"""
    assert in_a_process(script) == []


def test_a_thread_that_dies_is_told() -> None:
    script = """
import threading
from keyd.daemon import run
from keyd.daemon.logs import configure_logs
configure_logs("info", "json")
threading.excepthook = run._thread_died
thread = threading.Thread(target=lambda: 1 / 0, name="clockwork")
thread.start()
thread.join()
"""
    (line,) = in_a_process(script)
    told = json.loads(line)
    assert (told["event"], told["level"]) == ("thread_died", "critical")
    assert told["thread"] == "clockwork"
    assert "ZeroDivisionError" in told["exception"]


@pytest.mark.parametrize(
    "harden", ["keyd.daemon.hardening import harden_process", "keyd.worker.hardening import harden"]
)
def test_neither_program_can_be_dumped(harden: str) -> None:
    """No debugger of the same user and no handler of core dumps sees its memory."""
    script = f"""
import ctypes, sys
from {harden} as harden
harden()
print(ctypes.CDLL(None).prctl(3), file=sys.stderr)  # PR_GET_DUMPABLE
"""
    assert in_a_process(script) == ["0"]


def test_importing_the_daemon_switches_forking_support_off() -> None:
    script = (
        "import os, sys, keyd.daemon\n"
        "print(os.environ['GRPC_ENABLE_FORK_SUPPORT'], 'grpc' in sys.modules, file=sys.stderr)"
    )
    assert in_a_process(script) == ["0 False"]


@pytest.fixture
def signals() -> Iterator[Signals]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    made = Signals()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_wishes_arrive_in_order(signals: Signals) -> None:
    assert signals.wait(0) is None
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert [signals.wait(5) for _ in range(3)] == [Wish.RELOAD, Wish.STOP, Wish.STOP]
    assert signals.wait(0) is None


def test_only_an_impatient_second_stop_forces_and_only_once(signals: Signals) -> None:
    signals.impatient = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.wait(5) is Wish.STOP
    before = signals.forced
    with pytest.raises(ForcedStop):
        _kill_and_wait(signals)
    assert (before, signals.forced) == (False, True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.wait(5) is Wish.STOP


def _kill_and_wait(signals: Signals) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    signals.wait(5)


def test_the_watchdog_is_petted_twice_as_often_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_interval_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert systemd.watchdog_interval_s() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_interval_s() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval_s() is None


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")


def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        name = f"keyd-test-{os.getpid()}"
        receiver.bind("\0" + name)
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        systemd.notify("READY=1", "STATUS=fine")
        assert receiver.recv(1024) == b"READY=1\nSTATUS=fine"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_metrics_refuse_every_other_address_themselves(address: str) -> None:
    with pytest.raises(InvalidRequest, match="METRICS_NOT_LOOPBACK"):
        serve_metrics(address, 0, [])
