"""Fuzz the parsers with atheris (``make fuzz SECONDS=60``), one process for each target.

New inputs that reach new code are kept below ``build/fuzz/<target>/corpus``, where the next run
goes on; an input that breaks a promise is kept beside it as ``crash-…``, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import targets

_COVERED = re.compile(r"cov: (\d+) ft: (\d+) corp:")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


@dataclass(frozen=True)
class Run:
    """How one target's run ended, with libFuzzer's figures (0 where it did not get to tell)."""

    target: str
    code: int
    executions: int
    edges: int
    features: int
    findings: tuple[Path, ...]

    def __str__(self) -> str:
        return (
            f"{self.target:14} {self.executions:10,} executions {self.edges:6} edges "
            f"{self.features:6} features  "
            + ("FAILED: " + ", ".join(map(str, self.findings)) if self.code else "ok")
        )


def fuzz(name: str, seconds: int, folder: Path, extra: Sequence[str] = ()) -> Run:
    """Run one target for so many seconds and wait for its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus").mkdir(exist_ok=True)
    before = set(folder.glob("*-*"))
    log = folder / "log"
    with log.open("wb") as output:
        code = subprocess.run(
            _command(name, seconds, folder, extra), stderr=output, stdout=output, check=False
        ).returncode
    findings = tuple(sorted(set(folder.glob("*-*")) - before)) or (log,)
    return Run(name, code, *figures(log.read_text(errors="replace")), findings)


def figures(log: str) -> tuple[int, int, int]:
    """Executions, edges and features covered, as libFuzzer told last."""
    executed, covered = _EXECUTED.findall(log), _COVERED.findall(log)
    edges, features = covered[-1] if covered else (0, 0)
    return int(executed[-1]) if executed else 0, int(edges), int(features)


def _command(name: str, seconds: int, folder: Path, extra: Sequence[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.fuzz.run_target",
        name,
        f"-max_total_time={seconds}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-timeout=10",
        "-rss_limit_mb=2048",
        *extra,
        str(folder / "corpus"),
        str(targets.CORPUS / name),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz the named targets, or all; 1 if any of them found something."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets.NAMES))
    args = parser.parse_args(argv)
    runs = []
    for name in args.targets or targets.NAMES:
        runs.append(fuzz(name, args.seconds, args.work / name))
        print(runs[-1], flush=True)
    return 1 if any(run.code for run in runs) else 0


if __name__ == "__main__":
    raise SystemExit(main())
