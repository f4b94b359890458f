"""`make bench`: measure, print a table, write build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.figures import Figures
from bench.plan import FULL, QUICK
from bench.program import ROOT
from bench.publish import publish
from bench.run import PARTS, measure

_JSON = ROOT / "build" / "bench.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or write the tables of README.md and the documentation from the last run."""
    wanted = _parser().parse_args(arguments)
    if wanted.readme:
        publish(json.loads(wanted.out.read_text()))
        return 0
    # An installed keyd is compiled; ours must not be compiled anew at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    plan = FULL if wanted.full else QUICK

    def keep(figures: Figures) -> None:
        report.write_json(wanted.out, report.document(figures, plan))

    figures = measure(plan, frozenset(wanted.parts or PARTS), keep)
    print(report.text(report.document(figures, plan)))
    print(f"\nwritten: {wanted.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="3 minutes (the default)")
    extent.add_argument(
        "--full", action="store_true", help="half an hour: 16,384 bins, a million records"
    )
    extent.add_argument(
        "--readme",
        action="store_true",
        help="write the tables of README.md and the docs from the last run",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, metavar="PART", help=f"only {', '.join(PARTS)}; floors"
    )
    parser.add_argument("--out", type=Path, default=_JSON, help="default: build/bench.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
