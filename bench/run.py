"""One run: set up, measure in rounds, tear down."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import parts
from bench.figures import Figures
from bench.parts import Bench
from bench.place import Daemon, Place, make_place
from bench.plan import Plan
from bench.program import Program

_IN_ROUNDS = {
    "unary": parts.unary,
    "schemes": parts.schemes,
    "batch": parts.batch,
    "pep458": parts.pep458,
}
PARTS = (*_IN_ROUNDS, "start", "growth")
_LABEL = "keyd-dev"


def measure(plan: Plan, wanted: frozenset[str]) -> Figures:
    """Everything in `wanted`, and always the floors."""
    figures = Figures()
    if "start" in wanted:
        print("start", flush=True)
        with _place() as place:
            parts.start(plan, place, figures)
    with _place() as place, _bench(plan, place, figures) as bench:
        for number in range(plan.rounds):
            print(f"round {number + 1} of {plan.rounds}", flush=True)
            parts.floors(bench)
            for name, part in _IN_ROUNDS.items():
                if name in wanted:
                    part(bench)
        figures.numbers["resident_mb"] = bench.daemon.resident_mb()
    if "growth" in wanted:
        print("growth", flush=True)
        with _place() as place, _bench(plan, place, figures) as bench:
            parts.growth(bench)
    return figures


@contextmanager
def _place() -> Iterator[Place]:
    # A short name: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="keyd-bench-") as base:
        yield make_place(Path(base) / "k")


@contextmanager
def _bench(plan: Plan, place: Place, figures: Figures) -> Iterator[Bench]:
    """The daemon of a place, and the programs that measure it."""
    with ExitStack() as stack:
        noop, raw, caller = (
            stack.enter_context(Program(module, place.environment))
            for module in ("noop", "raw", "caller")
        )
        daemon = stack.enter_context(Daemon(place))
        repository, socket = place.base.parent / "repository", str(place.base.parent / "noop.sock")
        keys = caller.ask("prepare", directory=str(repository), bins=plan.bins)
        port = noop.ask("listen", socket=socket, tls=str(place.tls))
        caller.ask("connect_noop", socket=socket, port=port, tls=str(place.tls))
        module, pin_file = place.setting("module"), str(place.pin_file)
        raw.ask("open", module=module, label=_LABEL, pin_file=pin_file)
        yield Bench(plan, place, daemon, noop, raw, caller, keys, figures)
