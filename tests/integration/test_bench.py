"""The benchmark runs, part by part, and measures the goals it is for; figures are not judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.figures import Figures
from bench.goals import all_goals
from bench.plan import QUICK
from bench.run import PARTS, measure

_SHORT = replace(QUICK, rounds=1, call_s=0.5, raw_s=0.1, bins=64, starts=1, growth=(1_024, 2_048))
# Parts that run together, and how the goals begin that they measure.
_GOALS = {
    ("start",): ["keyd --help", "ready to sign"],
    ("unary", "schemes"): ["unary, 1", "unary, 32", "rsa3072", "p384", "daemon and worker"],
    ("unary", "batch", "pep458"): ["batch of 1,024", "PEP 458"],
    ("memory",): ["durable ledger, 32", "durable ledger, batch"],
    ("keys",): ["200 keys, 32", "200 keys, batch"],
    ("slow",): ["slow token"],
    ("growth",): ["2,048 records"],
}


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(("parts", "begin"), _GOALS.items(), ids=" ".join)
def test_every_part_measures_its_goals(
    tmp_path: Path, parts: Sequence[str], begin: Sequence[str]
) -> None:
    path = tmp_path / "bench.json"

    def keep(figures: Figures) -> None:
        report.write_json(path, report.document(figures, _SHORT))

    measure(_SHORT, frozenset(parts), keep)
    figures = report.figures_of(json.loads(path.read_text()))
    measured = [goal.name for goal in all_goals(figures) if goal.measured is not None]
    assert [words for words in begin if not _any_begins(measured, words)] == []
    calls = [each for name, turns in figures.series.items() if "unary" in name for each in turns]
    assert all(min(call.cpu_us.values()) > 0 for call in calls)


def _any_begins(names: Sequence[str], words: str) -> bool:
    return any(name.startswith(words) for name in names)


def test_no_part_is_left_out() -> None:
    assert {part for parts in _GOALS for part in parts} == set(PARTS)
