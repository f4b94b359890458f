"""The parts of a run; each adds its figures of one round."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.figures import Figures
from bench.place import KEYD, Daemon, Place
from bench.plan import Plan
from bench.stand import Bench, new_place, standing
from bench.timing import Timing, summarize

CALLERS = (1, 8, 32)
BATCHES = (1, 16, 64, 256, 1024)
PROFILES = {"unix": "dev", "mtls": "dev-tls"}
_RECORD = bytes(400)
_COMMITS = 200
_TOLD = 16 * 1024  # records between two words of progress


def floors(bench: Bench) -> None:
    """Raw signatures and verifications, no-op calls, durable writes."""
    seconds = bench.plan.raw_s
    for kind, key in bench.keys.items():
        for threads in (1, 2):
            name = f"raw/{kind}/{threads}"
            bench.measure_raw(name, "sign", kind, threads=threads, seconds=seconds)
        public = key["public_der"]
        bench.measure_raw(f"verify/{kind}", "verify", kind, public_der=public, seconds=seconds)
    bench.figures.add("disk", _durable_writes(bench.place.ledger))


def unary(bench: Bench) -> None:
    """`KeydSigner.sign` beside the no-op call, over both kinds of socket."""
    for socket, profile in PROFILES.items():
        for callers in CALLERS:
            asked = {"profile": profile, "callers": callers, "seconds": bench.plan.call_s}
            bench.measure_noop(f"noop/{socket}/{callers}", **asked)
            bench.measure(f"unary/{socket}/{callers}", "sign", kind="p256", **asked)


def schemes(bench: Bench) -> None:
    """32 callers with the other schemes."""
    for kind in bench.keys:
        if kind != "p256":
            asked = {"profile": "dev", "callers": 32, "seconds": bench.plan.call_s}
            bench.measure(f"unary/{kind}/32", "sign", kind=kind, **asked)


def batch(bench: Bench) -> None:
    """`sign_metadata_batch` by batch size."""
    for size in BATCHES:
        seconds = bench.plan.call_s / 2
        bench.measure(f"batch/{size}", "batch", kind="p256", size=size, seconds=seconds)


def pep458(bench: Bench) -> None:
    """Every bin of an index in one batch."""
    bench.measure("pep458", "batch", kind="p256", size=bench.plan.bins, seconds=0.0)


def start(plan: Plan, place: Place, figures: Figures) -> None:
    """The command line and the daemon, from their start; nothing else runs."""
    bare, shown, ready, resident = [], [], [], []
    for _ in range(plan.starts):
        bare.append(_run_s([sys.executable, "-c", "pass"]))
        shown.append(_run_s([*KEYD, "--help"]))
        with Daemon(place) as daemon:
            ready.append(daemon.ready_s)
            resident.append(daemon.resident_mb())
    figures.numbers |= {
        "start/bare_s": median(bare),
        "start/help_s": median(shown),
        "start/ready_s": median(ready),
        "start/resident_mb": median(resident),
    }


def growth(plan: Plan, figures: Figures) -> None:
    """The batch rate as recorded signatures add up, each beside raw signing at that time."""
    with new_place() as place, standing(plan, place, figures, ("p256",)) as bench:
        recorded, size = 0, 1024
        for records in plan.growth:
            while recorded + size <= records:
                bench.caller.ask("batch", kind="p256", size=size, seconds=0.0)
                recorded += size
                if recorded % _TOLD == 0:
                    print(f"  {recorded:,} of {plan.growth[-1]:,}", flush=True)
            for _ in range(plan.rounds):
                floor = f"growth/raw/{records}"
                bench.measure_raw(floor, "sign", "p256", threads=1, seconds=plan.raw_s)
                name = f"growth/{records}"
                bench.measure(name, "batch", kind="p256", size=size, seconds=0.0)
                recorded += size


def _run_s(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _durable_writes(directory: Path) -> Timing:
    """A record of 400 bytes appended and flushed, in the ledger's own directory."""
    path = directory / "bench.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    durations = []
    try:
        for _ in range(_COMMITS):
            started = time.perf_counter()
            os.write(descriptor, _RECORD)
            os.fdatasync(descriptor)
            durations.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return summarize(durations, sum(durations))
