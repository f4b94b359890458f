"""A running daemon with everything that measures it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import Watched, each_us, spent_by
from bench.figures import Figures
from bench.place import Daemon, Place, make_place
from bench.plan import Plan
from bench.program import Program
from bench.timing import Timing

EVERY_KIND = ("p256", "p384", "ed25519", "rsa3072")
_LABEL = "keyd-dev"


@dataclass(frozen=True)
class Bench:
    """The processes of one stand; `keys` are told by the caller."""

    plan: Plan
    place: Place
    daemon: Daemon
    noop: Program
    raw: Program
    caller: Program
    keys: Mapping[str, Mapping[str, str]]
    figures: Figures

    def measure(self, name: str, do: str, **asked: Any) -> None:
        """Ask the caller to do something with keyd; add what it tells and what it costs."""
        daemon = self.daemon
        keyd = {"daemon": [daemon.pid], "worker": daemon.workers()}
        self._add(name, self.caller, keyd, do, **asked)

    def measure_noop(self, name: str, **asked: Any) -> None:
        """The same of the no-op server."""
        self._add(name, self.caller, {"server": [self.noop.pid]}, "noop", **asked)

    def measure_raw(self, name: str, do: str, kind: str, **asked: Any) -> None:
        """The same of python-pkcs11 and `cryptography`, with the key of a kind."""
        key = self.keys[kind]
        self._add(name, self.raw, {}, do, scheme=key["scheme"], cka_id=key["cka_id"], **asked)

    def _add(self, name: str, asker: Program, served_by: Watched, do: str, **asked: Any) -> None:
        watched = {"client": [asker.pid], **served_by}
        before = spent_by(watched)
        told = asker.ask(do, **asked)
        cpu_us = each_us(before, spent_by(watched), told["done"])
        self.figures.add(name, Timing.of({**told, "cpu_us": cpu_us}))


@contextmanager
def new_place() -> Iterator[Place]:
    """A keyd below a temporary directory."""
    # A short name: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="keyd-bench-") as base:
        yield make_place(Path(base) / "k")


@contextmanager
def standing(
    plan: Plan, place: Place, figures: Figures, kinds: Sequence[str] = EVERY_KIND
) -> Iterator[Bench]:
    """The daemon of a place, its repository with bins of `kinds`, and what measures it."""
    with ExitStack() as stack:
        noop, raw, caller = (
            stack.enter_context(Program(module, place.environment))
            for module in ("noop", "raw", "caller")
        )
        daemon = stack.enter_context(Daemon(place))
        repository, socket = place.base.parent / "repository", str(place.base.parent / "noop.sock")
        keys = caller.ask("prepare", directory=str(repository), bins=plan.bins, kinds=kinds)
        port = noop.ask("listen", socket=socket, tls=str(place.tls))
        caller.ask("connect_noop", socket=socket, port=port, tls=str(place.tls))
        module, pin_file = place.setting("module"), str(place.pin_file)
        raw.ask("open", module=module, label=_LABEL, pin_file=pin_file)
        yield Bench(plan, place, daemon, noop, raw, caller, keys, figures)
