"""A million signatures with faults between them: nothing grows, nothing leaks, the log verifies.

The slow parts sign on one installation below build/soak, each where the last one stopped, so that
every part fits a shard. A part that has passed on these very files is not done again; whichever
comes first makes the installation. KEYD_SOAK names a folder to go on in, whatever the files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.daemon import Installation, install
from tests.faults.soaking import BATCH, UNARY, Sample, Soak, behind_shim
from tests.recording import check_disk
from tests.running import KEYD, clean_environment
from tests.shard_state import tree_digest
from tests.tally import Promise, Tally, tallied

FAULT = "worker killed or stopped, or daemon reloaded, in a soak"
PARTS = 10
BATCHES = 99  # with the calls between them, 100,000 signatures
FAULT_EVERY = 12
# The goal is 1 MiB for 100,000 signatures; what is asserted leaves room for the allocator's moods.
GROWTH_KIB = 6 * 1024
WAL_BYTES = 16 << 20
READY_S = 60.0
VERIFY_KIB = 400 * 1024


def soaked(
    installation: Installation, shim: Path, batches: int, fault_every: int, tally: Tally
) -> tuple[float, list[Sample]]:
    """Start the daemon, sign, stop it; returns how long the start took, and what was seen."""
    calls = installation.root / "calls"
    installation.configure()
    behind_shim(installation, shim, calls)
    began = time.monotonic()
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        ready_s = time.monotonic() - began
        soak = Soak(installation, daemon, calls)
        soak.run(batches, fault_every, tally)
        events = daemon.events()
        assert not {"call_crashed", "thread_died"} & {event["event"] for event in events}
        assert "CANCELLED" not in {event.get("code") for event in events}
        assert daemon.stop() == 0
    assert soak.signed == batches * (BATCH + UNARY)
    return ready_s, soak.samples


def growth_kib(samples: Sequence[Sample]) -> float:
    """Of the daemon's memory, from the first quarter on: caches are full by then."""
    settled = [sample.daemon_kib for sample in samples[len(samples) // 4 :]]
    few = max(1, len(settled) // 5)
    return statistics.median(settled[-few:]) - statistics.median(settled[:few])


def slowdown(samples: Sequence[Sample]) -> float:
    """How much longer the last tenth of undisturbed batches took than the first.

    The fastest of each counts: what the machine does besides does not make them faster.
    """
    calm = [sample.batch_s for sample in samples if not sample.fault]
    tenth = max(1, len(calm) // 10)
    return min(calm[-tenth:]) / min(calm[:tenth])


def check_nothing_grew(samples: Sequence[Sample]) -> None:
    assert growth_kib(samples) < GROWTH_KIB
    for name in ("files", "worker_files", "threads"):
        seen = {getattr(sample, name) for sample in samples[1:]}
        assert max(seen) - min(seen) <= 2, (name, seen)
    for name in ("worker_threads", "sessions"):
        assert len({getattr(sample, name) for sample in samples[1:]}) == 1, name
    assert max(sample.wal_bytes for sample in samples) <= WAL_BYTES
    # No measurement: what reads all that ever was shows, and a busy machine does not.
    assert slowdown(samples) < 3


CALM = Sample(
    signatures=0,
    fault="",
    daemon_kib=90_000,
    worker_kib=40_000,
    files=20,
    worker_files=5,
    threads=18,
    worker_threads=3,
    sessions=3,
    wal_bytes=4 << 20,
    batch_s=1,
    call_s=0.005,
)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("daemon_kib", 150),
        ("files", 0.1),
        ("worker_files", 0.1),
        ("threads", 0.1),
        ("worker_threads", 0.02),
        ("sessions", 0.01),
        ("wal_bytes", 1 << 18),
        ("batch_s", 0.05),
    ],
)
def test_what_grows_is_noticed(name: str, step: float) -> None:
    check_nothing_grew([CALM] * 100)
    growing = [
        replace(CALM, **{name: getattr(CALM, name) + number * step}) for number in range(100)
    ]
    with pytest.raises(AssertionError):
        check_nothing_grew(growing)


def test_five_thousand_signatures(installation: Installation, shim_module: Path) -> None:
    with tallied(Promise.RECORDED, FAULT) as tally:
        _, samples = soaked(installation, shim_module, 5, 2, tally)
        check_nothing_grew(samples)
        assert check_disk(installation.ledger, installation.anchor) > 2 * 5 * BATCH
        assert tally.injections == 2


# --- the million ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LongSoak:
    """The installation that parts share, and what became of those that are done."""

    folder: Path

    @property
    def installation(self) -> Installation:
        return Installation(self.folder / "site")

    def done(self) -> dict[str, Any]:
        diary = self.folder / "diary.json"
        return json.loads(diary.read_text()) if diary.exists() else {}

    def note(self, part: int, facts: dict[str, Any]) -> None:
        draft = self.folder / "diary.new"
        draft.write_text(json.dumps({**self.done(), str(part): facts}, indent=1))
        draft.replace(self.folder / "diary.json")

    def prepare(self) -> None:
        """Make the installation unless a part has done so."""
        if not (self.folder / "made").exists():
            shutil.rmtree(self.installation.root, ignore_errors=True)
            install(self.installation.root)
            (self.folder / "made").touch()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Parts take turns, should somebody run them side by side."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def long_soak() -> Iterator[LongSoak]:
    place = ROOT / "build" / "soak"
    folder = Path(os.environ.get("KEYD_SOAK") or place / tree_digest())
    longest = folder / "site" / "run" / "release" / "s"
    if len(bytes(longest)) > 107:
        pytest.skip(f"{longest} is too long for a socket; name a folder with KEYD_SOAK")
    for old in place.glob("*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with alone_in(folder):
        yield LongSoak(folder)


@pytest.mark.slow(seconds=300, lane="soak")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_part(long_soak: LongSoak, shim_module: Path, part: int) -> None:
    if facts := long_soak.done().get(str(part)):
        print(f"done earlier: {facts}")
        return
    long_soak.prepare()
    with tallied(Promise.RECORDED, FAULT) as tally:
        began = time.monotonic()
        ready_s, samples = soaked(long_soak.installation, shim_module, BATCHES, FAULT_EVERY, tally)
        facts = {
            "signatures": samples[-1].signatures,
            "seconds": round(time.monotonic() - began),
            "ready_s": round(ready_s, 2),
            "batch_s": statistics.median(sample.batch_s for sample in samples),
            "call_ms": round(1000 * statistics.median(sample.call_s for sample in samples), 2),
            "slowdown": round(slowdown(samples), 2),
            "growth_kib": growth_kib(samples),
            "daemon_kib": samples[-1].daemon_kib,
            "wal_bytes": max(sample.wal_bytes for sample in samples),
            "faults": tally.injections,
            "recovery_s": max(tally.recovery_s),
        }
        print(facts)
        check_nothing_grew(samples)
        assert ready_s < READY_S
        assert tally.injections == BATCHES // FAULT_EVERY
    long_soak.note(part, facts)


@pytest.mark.slow(seconds=480, lane="soak")
@pytest.mark.timeout(600)
def test_whole_log_verifies(long_soak: LongSoak) -> None:
    """Whatever parts have run: all of a million when none was left out."""
    done = long_soak.done()
    if not done:
        pytest.skip("no part of the soak has run on these files: there is nothing to verify")
    signatures = sum(facts["signatures"] for facts in done.values())
    parts = list(done.values())
    began = time.monotonic()
    report, memory_kib = verified(long_soak.installation)
    seconds = time.monotonic() - began
    print(f"{len(parts)} parts: {signatures:,} signatures, {report['log_size']:,} entries")
    print(f"verified in {seconds:.0f} s with {memory_kib / 1024:.0f} MiB")
    print(f"a batch took {parts[0]['batch_s']} s at first, {parts[-1]['batch_s']} s at last")
    assert report["ok"], report["flaws"]
    assert report["open_intents"] == 0
    assert report["signatures"] >= signatures
    assert report["log_size"] >= 2 * signatures
    assert memory_kib < VERIFY_KIB
    # Reading all that ever was would take ten times as long by now.
    assert parts[-1]["batch_s"] < 8 * parts[0]["batch_s"]


def verified(installation: Installation) -> tuple[dict[str, Any], int]:
    """What `keyd ledger verify` tells, and the most memory it had, in KiB."""
    command = [*KEYD, "ledger", "verify", "--json", "--config", str(installation.config)]
    with subprocess.Popen(
        command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            told = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            # Nobody waits for it once pytest's time is up.
            if process.returncode is None:
                process.kill()
    return json.loads(told), usage.ru_maxrss
