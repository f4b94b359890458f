"""What fault tests injected and what came of it: the raw material of `build/faults.md`.

A test wraps its injections: `with tallied(Promise.RECORDED, "SIGKILL under load") as tally: ...`,
counts each with `tally.injected()` and gives times with `tally.recovered(seconds)`. An exception
that leaves the block is a violation. `KEYD_TALLY` names the folder to write to, one JSON line a
block; unset, nothing is written. A block that injected nothing is an error: it proved nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

VARIABLE = "KEYD_TALLY"


class Promise(StrEnum):
    """What keyd promises, in the words of the report."""

    ONE_PAYLOAD = "never two payloads for one version"
    RECORDED = "no signature leaves unrecorded or unverified"
    REPEATABLE = "the same bytes get the recorded signature"
    STATE_GUARDED = "restored, cut or damaged state is recognised and refused"
    TOKENS_RECOVER = "a lost token is reported at once and used again when it is back"
    PIN_SPARED = "no PIN try that no operator asked for"
    SECRETS_KEPT = "no key, PIN or payload where it does not belong"
    DENY_BY_DEFAULT = "what is not granted is denied, on every call"
    APPROVED = "nothing that needs officers happens without their approval of just that"
    LOG_TELLS = "every edit of the audit log is noticed"
    NO_STARVATION = "no client starves another"
    NO_INTERNAL = "bad input gets a typed refusal, never a crash"


@dataclass
class Tally:
    """One block's count; times in seconds."""

    promise: Promise
    fault: str
    injections: int = 0
    violations: int = 0
    recovery_s: list[float] = field(default_factory=list)

    def injected(self, count: int = 1) -> None:
        self.injections += count

    def recovered(self, seconds: float) -> None:
        """How long it took until the service was as before."""
        self.recovery_s.append(round(seconds, 4))


@contextmanager
def tallied(promise: Promise, fault: str) -> Iterator[Tally]:
    """Count what the block injects; `fault` names the kind in a few words, the same every run."""
    tally = Tally(promise, fault)
    try:
        yield tally
        if not tally.injections:
            raise AssertionError(f"{fault}: nothing was injected, so nothing was proved")
    except BaseException:
        tally.violations = 1
        raise
    finally:
        _write(tally)


def _write(tally: Tally) -> None:
    if folder := os.environ.get(VARIABLE):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as lines:
            lines.write(json.dumps(asdict(tally)) + "\n")
