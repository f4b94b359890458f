"""A daemon that signs for hours, with a fault now and then, and what it holds meanwhile.

`Soak` signs on one installation, most of it in batches, some of it call by call; after each batch a
`Sample` is taken of what must not grow.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from securesystemslib.signer import Signature

from keyd.domain import canonical
from keyd_client.batch import sign_metadata_batch
from keyd_client.errors import BackendUnavailable, DeadlineExceeded
from keyd_client.signer import KeydSigner
from tests.daemon import BINS, REPOSITORY, Installation
from tests.running import Daemon
from tests.tally import Tally

BATCH = 1_000
UNARY = 10
ALONE = "team-a"
_PATIENCE_S = 120.0
_NOW = time.monotonic


@dataclass(frozen=True)
class Sample:
    """What daemon and worker held after so many signatures; memory in KiB, times in seconds.

    `batch_s` is the time of the batch before, `call_s` the median of the calls after it; `fault`
    is what happened in the middle of the batch, or empty.
    """

    signatures: int
    fault: str
    daemon_kib: int
    worker_kib: int
    files: int
    worker_files: int
    threads: int
    worker_threads: int
    sessions: float
    wal_bytes: int
    batch_s: float
    call_s: float


@dataclass
class _Bytes:
    signed_bytes: bytes
    signatures: dict[str, Signature] = field(default_factory=dict)


def behind_shim(installation: Installation, shim: Path, folder: Path) -> None:
    """Let the installation's token be reached through shim.c, which counts sessions anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = installation.config.read_text()
    module = json.loads((installation.root / "token.json").read_text())["module"]
    counting = f'KEYD_SHIM_MODULE = "{module}", KEYD_SHIM_DIR = "{folder}", '
    config = config.replace(f'module = "{module}"', f'module = "{shim}"')
    installation.config.write_text(
        config.replace("environment = { ", f"environment = {{ {counting}")
    )


class Soak:
    """One running daemon that is made to sign; use `behind_shim` before it starts."""

    def __init__(self, installation: Installation, daemon: Daemon, calls: Path) -> None:
        self._installation = installation
        self._daemon = daemon
        self._calls = calls
        self._recorder = installation.recorder()
        self._client = self._recorder.client
        self._signer = KeydSigner("unused", "bins", self._recorder.public_key("bins"))
        state = self._client.repositories.state(REPOSITORY)
        highest = {role.role: role.high_water for role in state.roles}
        versions = itertools.count(1 + max(highest.get(name, 0) for name in BINS))
        self._next = ((name, version) for version in versions for name in BINS)
        self._alone = itertools.count(1 + highest.get(ALONE, 0))
        self._faults = itertools.cycle((self.kill_worker, self.reload, self.stop_worker))
        self._workers = 1
        self.signed = 0
        self.lost = 0
        self.samples: list[Sample] = []

    def run(self, batches: int, fault_every: int, tally: Tally) -> None:
        """Sign so many batches, and the calls after each; the middle of some has a fault."""
        for number in range(1, batches + 1):
            fault = next(self._faults) if number % fault_every == 0 else None
            began = _NOW()
            self._batch(partial(self._injure, fault, tally) if fault else None)
            batch_s = _NOW() - began
            calls_s = [self._alone_s() for _ in range(UNARY)]
            name = fault.__name__ if fault else ""
            self.samples.append(self._sample(name, batch_s, statistics.median(calls_s)))

    def kill_worker(self) -> None:
        """The worker dies by SIGKILL; back when the next one has logged in."""
        os.kill(self._worker(), signal.SIGKILL)
        self._await_worker()

    def stop_worker(self) -> None:
        """The worker hangs, by SIGSTOP, until the daemon's watchdog replaces it."""
        os.kill(self._worker(), signal.SIGSTOP)
        self._await_worker()

    def reload(self) -> None:
        """The daemon reads policy and certificates anew."""
        before = sum(event["event"] == "reloaded" for event in self._daemon.events())
        self._daemon.send(signal.SIGHUP)
        self._daemon.wait_for("reloaded", before + 1)

    def _sessions(self) -> float:
        """Opened and not closed by each worker so far, by the module's own count."""
        left = self._count("C_OpenSession") - self._count("C_CloseSession")
        return left / self._workers

    def _injure(self, fault: Callable[[], None], tally: Tally) -> None:
        tally.injected()
        began = _NOW()
        fault()
        tally.recovered(_NOW() - began)

    def _batch(self, injure: Callable[[], None] | None) -> None:
        """Sign a batch; what a fault broke is asked for again, with the same bytes."""
        writer = self._recorder.writer
        waiting = [
            (_Bytes(canonical.encode(writer.targets(version))), name, self._signer)
            for name, version in itertools.islice(self._next, BATCH)
        ]
        until = _NOW() + _PATIENCE_S
        while waiting:
            items = _interrupted(waiting, injure)
            outcomes = sign_metadata_batch(self._client, items, REPOSITORY)
            injure = None
            failed = [outcome for outcome in outcomes if outcome.error is not None]
            for outcome in failed:
                assert isinstance(outcome.error, BackendUnavailable | DeadlineExceeded), outcome
            assert _NOW() < until, failed[:1]
            self.signed += len(waiting) - len(failed)
            self.lost += len(failed)
            waiting = [waiting[outcome.index] for outcome in failed]

    def _alone_s(self) -> float:
        payload = self._recorder.writer.targets(next(self._alone))
        began = _NOW()
        self._recorder.sign(ALONE, ALONE, payload)
        self._recorder.receipts.clear()
        self.signed += 1
        return _NOW() - began

    def _worker(self) -> int:
        return int(self._daemon.wait_for("token_worker_started", self._workers)["pid"])

    def _await_worker(self) -> None:
        self._workers += 1
        self._daemon.wait_for("token_logged_in", self._workers)

    def _sample(self, fault: str, batch_s: float, call_s: float) -> Sample:
        daemon, worker = self._daemon.running.pid, self._worker()
        wal = self._installation.ledger / "ledger.db-wal"
        return Sample(
            signatures=self.signed,
            fault=fault,
            daemon_kib=_status(daemon, "VmRSS"),
            worker_kib=_status(worker, "VmRSS"),
            files=_open_files(daemon),
            worker_files=_open_files(worker),
            threads=_status(daemon, "Threads"),
            worker_threads=_status(worker, "Threads"),
            sessions=self._sessions(),
            wal_bytes=wal.stat().st_size,
            batch_s=round(batch_s, 3),
            call_s=round(call_s, 5),
        )

    def _count(self, function: str) -> int:
        calls = self._calls / f"{function}.calls"
        return calls.stat().st_size if calls.exists() else 0


def _interrupted(
    items: Sequence[tuple[_Bytes, str, KeydSigner]], injure: Callable[[], None] | None
) -> Iterator[tuple[_Bytes, str, KeydSigner]]:
    """The items, and in the middle of them, with others under way, a fault."""
    for number, item in enumerate(items):
        if injure is not None and number == len(items) // 2:
            injure()
        yield item


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0])


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
