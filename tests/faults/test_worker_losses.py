"""Workers that die or freeze, and tokens that go away, come back or turn into others."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from keyd.backends.process import WORKER_COMMAND
from keyd.backends.token import WorkerToken
from keyd.domain.keys import Key
from keyd.domain.public_keys import verify
from keyd.domain.tokens import TokenState
from keyd.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    KeydError,
)
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import Shim
from tests.fleets import (
    P256,
    PATIENCE_S,
    config_for,
    item,
    make_key,
    running,
    sign_one,
    sign_when_back,
    wait_for_state,
    wait_until,
    worker_pids,
)
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied


class Load:
    """Four clients that sign without pause and note how each request ended."""

    def __init__(self, token: WorkerToken, key: Key) -> None:
        self._token = token
        self._key = key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        self.signed = 0
        self.failures: list[KeydError] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            data = secrets.token_bytes(16)
            started = time.monotonic()
            [outcome] = self._token.sign([item(self._key, data)], 10.0)
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            if isinstance(outcome, KeydError):
                self.failures.append(outcome)
                self._stop.wait(0.01)
            else:
                assert isinstance(outcome, bytes)
                verify(self._key.public_der, self._key.scheme, data, outcome)
                self.signed += 1

    def wait_for_more(self) -> None:
        """Until further signatures were made."""
        seen = self.signed
        wait_until(lambda: self.signed > seen + 20, "more signatures")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_lost_under_load_is_replaced(
    number: signal.Signals, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """reliability A4. Requests under way fail with an outcome that says so; the rest waits."""
    # A limit that a busy machine keeps: a sound worker ended for slowness costs another login.
    config = shim.config(sign_timeout_s=2.0)
    with (
        tallied(Promise.TOKENS_RECOVER, f"{number.name} of a worker") as tally,
        running(config, journal=journal) as fleet,
    ):
        token = fleet.get("test")
        with Load(token, make_key(token, journal)) as load:
            for losses in range(1, 3):
                load.wait_for_more()
                [pid] = worker_pids()
                os.kill(pid, number)
                tally.injected()
                wait_until(lambda gone=pid: worker_pids() - {gone} != set(), "a new worker")  # type: ignore[misc]
                load.wait_for_more()
                assert shim.calls("C_Login") == 1 + losses
        for failure in load.failures:
            assert isinstance(failure, BackendUnavailable | DeadlineExceeded)
        # Each client had one request at the worker; whoever came too early was told to come back.
        outcomes = Counter(
            failure.details.get("outcome", failure.reason) for failure in load.failures
        )
        assert 0 < outcomes.pop("UNKNOWN_RECORDED") <= 8, outcomes
        assert set(outcomes) <= {"NOT_STARTED"}
        assert load.slowest_s < PATIENCE_S
    assert worker_pids() == set()


def test_a_stopped_worker_is_noticed_before_its_request_is_overdue(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """Its limit of a minute need not pass, nor need anybody ask it for anything."""
    with (
        tallied(Promise.TOKENS_RECOVER, "SIGSTOP of an idle worker") as tally,
        running(config_for(softhsm, sign_timeout_s=60.0), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        [pid] = worker_pids()
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        tally.injected()
        wait_until(lambda: worker_pids() - {pid} != set(), "a new worker")
        sign_when_back(token, key)
        tally.recovered(time.monotonic() - stopped)
        print(f"signs again {time.monotonic() - stopped:.2f} s after SIGSTOP")


def test_no_zombie_and_no_worker_outlives_its_fleet(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    with running(config_for(softhsm), journal=journal):
        [pid] = worker_pids()
    assert worker_pids() == set()
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_ends_with_the_daemon_even_while_its_module_hangs(
    shim: Shim, tmp_path: Path
) -> None:
    """A daemon killed by SIGKILL leaves no process with an open login behind."""
    daemon = textwrap.dedent(
        f"""
        import sys, threading
        from pathlib import Path
        from keyd.backends.config import TokenConfig
        from tests.fakes import MemoryTokenJournal
        from tests.fleets import item, make_key, running, worker_pids
        config = TokenConfig("t", Path({str(shim.module)!r}), {shim.token.uri!r},
            "file:{shim.token.pin_file}", environment={dict(shim.config().environment)!r})
        journal = MemoryTokenJournal()
        with running(config, journal=journal) as fleet:
            key = make_key(fleet.get("t"), journal)
            Path({str(shim.directory)!r}, "C_Sign.do").write_text("hang\\n")
            threading.Thread(target=fleet.get("t").sign, args=([item(key)], 60.0)).start()
            print(*worker_pids(), flush=True)
            sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", daemon],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.strip().isdigit())
        pid = int(next(lines))
        wait_until(lambda: shim.obeyed("C_Sign"), "the module to hang")
        process.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to end")


_GARBAGE = {
    "text": "sock.sendall(b'Segmentation fault (core dumped)' * 10)",
    "an endless frame": "sock.sendall(bytes(4) + bytes([255] * 100))",
    "an answer to nothing": "sock.sendall(bytes([0, 0, 0, 4, 0x0a, 2, 8, 99]))",
    "silence": "pass",
}


@pytest.mark.parametrize("name", _GARBAGE)
def test_a_worker_that_talks_nonsense_is_replaced(
    name: str, softhsm: SoftHSMToken, journal: MemoryTokenJournal, tmp_path: Path
) -> None:
    """The worker is trusted less than the daemon. This one is sane from its second start on."""
    program = tmp_path / "worker.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import os, pathlib, socket, sys
            first = pathlib.Path({str(tmp_path)!r}, "started")
            if first.exists():
                os.execv({WORKER_COMMAND[0]!r}, {list(WORKER_COMMAND)!r} + sys.argv[1:])
            first.touch()
            sock = socket.socket(fileno=int(sys.argv[2]))
            sock.recv(1)
            {_GARBAGE[name]}
            while sock.recv(4096):
                pass
            """
        )
    )
    config = config_for(softhsm, open_timeout_s=1.0)
    with running(config, journal=journal, worker_command=(sys.executable, str(program))) as fleet:
        token = fleet.get("test")
        wait_for_state(token, TokenState.ONLINE)
        sign_one(token, make_key(token, journal))


def test_a_quarantine_outlives_the_release_before_it(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """An operator's second thought counts, however long the first one takes to be served."""
    with running(config_for(softhsm), journal=journal) as fleet:
        token = fleet.get(softhsm.label)
        for attempt in range(3):
            token.quarantine("first")
            token.release()
            token.quarantine(f"second {attempt}")
        # Behind everything above in the token's own thread.
        with pytest.raises(BackendUnavailable, match="TOKEN_QUARANTINED"):
            token.unlock(None, PATIENCE_S)
        assert token.status().state is TokenState.QUARANTINED
        assert journal.quarantined(softhsm.label) == "second 2"
        token.release()
        wait_for_state(token, TokenState.ONLINE)


def test_quarantine_stops_at_once_and_survives_restarts(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        with Load(token, key) as load:
            load.wait_for_more()
            token.quarantine("suspicious")
            assert token.status().state is TokenState.QUARANTINED
            [outcome] = token.sign([item(key)], PATIENCE_S)
            assert isinstance(outcome, BackendUnavailable)
            assert outcome.reason == "TOKEN_QUARANTINED"
            wait_until(lambda: not worker_pids(), "the worker's end")
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        assert (token.status().state, token.status().detail) == (
            TokenState.QUARANTINED,
            "suspicious",
        )
        assert worker_pids() == set()
        with pytest.raises(BackendUnavailable):
            token.unlock(bytearray(b"pin"), PATIENCE_S)
        logins = shim.calls("C_Login")
        token.release()
        wait_for_state(token, TokenState.ONLINE)
        sign_one(token, key)
        assert shim.calls("C_Login") == logins + 1


def test_generation_does_not_stop_signing(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """reliability D9: signers beside a key generator."""
    with running(config_for(softhsm), journal=journal) as fleet:
        token = fleet.get("test")
        with Load(token, make_key(token, journal)) as load:
            for _ in range(5):
                make_key(token, journal, P256)
            load.wait_for_more()
        assert not load.failures
