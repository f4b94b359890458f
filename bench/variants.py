"""The same calls on stands that differ in one thing: memory for a disk, many keys, a slow token."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.figures import Figures
from bench.place import Place
from bench.plan import Plan
from bench.program import ROOT
from bench.stand import Bench, new_place, standing

SESSIONS = 8
SIGNING_S = 0.010
SLOW_CALLERS = 64
KEYS = 200
_MEMORY = Path("/dev/shm")
_SHIM = ROOT / "tests" / "faults" / "shim.c"
_KINDS = ("p256",)


def memory(plan: Plan, figures: Figures) -> None:
    """A ledger whose files lie in memory, where the same flushes cost nothing; beside one on disk.

    Everything else is the same: code, settings of SQLite, transactions.
    """
    if not _MEMORY.is_dir():
        print(f"  not measured: there is no {_MEMORY}")
        return
    with new_place() as disk, new_place() as other, _ledger_in_memory(other) as changed:
        _beside(plan, figures, "memory", (disk, changed))


def keys(plan: Plan, figures: Figures) -> None:
    """A token and a ledger with 200 keys, beside one with those of the bench alone."""
    with new_place() as few, new_place() as many:
        _beside(plan, figures, "keys", (few, many), keys=KEYS)


def slow(plan: Plan, figures: Figures) -> None:
    """SoftHSM behind a module that takes 10 ms for each signature, with 8 sessions."""
    if shutil.which("cc") is None:
        print("  not measured: no C compiler (cc) to make the slow module with")
        return
    with (
        new_place() as place,
        _slow_module(place) as slowed,
        standing(plan, slowed, figures, _KINDS) as bench,
    ):
        for _ in range(plan.rounds):
            bench.measure_raw("slow/raw/8", "sign", "p256", threads=SESSIONS, seconds=plan.call_s)
            # 64 calls of a slow token last: several of each caller's must fit.
            _unary(bench, "slow/unary/64", SLOW_CALLERS, times=2)
            _batch(bench, "slow/batch")


def _beside(
    plan: Plan, figures: Figures, name: str, places: tuple[Place, Place], keys: int = 0
) -> None:
    with (
        standing(plan, places[0], figures, _KINDS) as usual,
        standing(plan, places[1], figures, _KINDS) as other,
    ):
        if keys:
            other.caller.ask("add_keys", until=keys)
            figures.numbers[f"{name}/keys"] = usual.caller.ask("add_keys", until=0)
        # Short turns, taken alternately: the machine's own moods hit both alike.
        for _ in range(2 * plan.rounds):
            for label, bench in (("plain", usual), (name, other)):
                _unary(bench, f"{name}/{label}/unary", 32)
                _batch(bench, f"{name}/{label}/batch")


def _unary(bench: Bench, name: str, callers: int, times: int = 1) -> None:
    asked = {"profile": "dev", "callers": callers, "seconds": times * bench.plan.call_s}
    bench.measure(name, "sign", kind="p256", **asked)


def _batch(bench: Bench, name: str) -> None:
    bench.measure(name, "batch", kind="p256", size=512, seconds=bench.plan.call_s / 2)


@contextmanager
def _ledger_in_memory(place: Place) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="keyd-bench-", dir=_MEMORY) as base:
        for name in ("ledger", "anchor"):
            moved = shutil.move(place.base / name, Path(base) / name)
            place.edit(f'{name} = "{place.base / name}"', f'{name} = "{moved}"')
        yield place


@contextmanager
def _slow_module(place: Place) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="keyd-bench-") as base:
        module = Path(base) / "shim.so"
        flags = ["-O1", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", module, _SHIM, "-ldl"], check=True)
        (Path(base) / "C_Sign.always").write_text(f"toil {1000 * SIGNING_S:.0f}\n")
        behind = place.setting("module")
        variables = {"KEYD_SHIM_MODULE": behind, "KEYD_SHIM_DIR": base}
        told = "".join(f', {name} = "{value}"' for name, value in variables.items())
        place.edit(f'module = "{behind}"', f'module = "{module}"\nsessions = {SESSIONS}')
        place.edit('softhsm2.conf" }', f'softhsm2.conf"{told} }}')
        yield replace(place, variables=variables)
