"""Pages that say where a promise is kept must name code and tests that exist."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from keyd.config.settings import TokenSettings
from keyd.domain.tokens import TokenState
from keyd.failpoints import Failpoint
from tests import faults_report

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page for folder in ("adr", "explanation", "security") for page in (DOCS / folder).glob("*.md")
)
ORDER = DOCS / "explanation/order-of-a-signature.md"
FAILURES = DOCS / "explanation/failure-behaviour.md"
# Paths from the root or, in tables, from keyd/; a test may be named after `::`.
_PLACE = re.compile(r"`((?:[\w-]+/)+(?:[\w.-]+\.(?:py|sql|proto|sh|txt))?)(?:::(\w+))?`")


def places(page: Path) -> Iterator[tuple[str, str]]:
    """Every path that a page names, with the test in it or ""."""
    return ((found[1], found[2] or "") for found in _PLACE.finditer(page.read_text("utf-8")))


def find(name: str) -> Path | None:
    return next((base / name for base in (ROOT, ROOT / "keyd") if (base / name).exists()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_named_places_exist(page: Path) -> None:
    wrong = []
    for name, test in places(page):
        path = find(name)
        if path is None or (test and f"def {test}(" not in path.read_text("utf-8")):
            wrong.append(f"{name}::{test}" if test else name)
    assert not wrong


def test_the_pages_name_places_at_all() -> None:
    assert sum(len(list(places(page))) for page in PAGES) > 50


def test_every_failpoint_has_its_row() -> None:
    rows = set(re.findall(r"^\| `([a-z_.]+)` \|", ORDER.read_text("utf-8"), re.MULTILINE))
    assert rows == {point.value for point in Failpoint}


def _rows() -> list[list[str]]:
    """The cells of every failure's row: what fails, what callers see, state and log, what to do."""
    lines = FAILURES.read_text("utf-8").partition(faults_report.BEGIN)[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [row for row in rows if row[1] != "Callers see"]


def test_failures_are_told_with_reasons_that_exist() -> None:
    known = set(re.findall(r"`([A-Z_]+)`", (DOCS / "reference/errors.md").read_text("utf-8")))
    words = {*TokenState, *(code.name for code in grpc.StatusCode)}
    worker = "".join(path.read_text("utf-8") for path in (ROOT / "keyd/worker").glob("*.py"))
    for row in _rows():
        for name in re.findall(r"`([A-Z][A-Z_]+[A-Z])`", " ".join(row)):
            is_signal = name in signal.Signals.__members__
            assert name in known | words or is_signal or f'"{name}"' in worker, name


def test_failures_are_told_with_log_events_and_metrics_that_exist() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "keyd").rglob("*.py"))
    metrics = (DOCS / "reference/metrics.md").read_text("utf-8")
    named = [
        name for row in _rows() for cell in row for name in re.findall(r"`([a-z]+_[a-z_]+)`", cell)
    ]
    assert len(named) > 20
    for name in named:
        is_told = f'"{name}"' in sources or f"`{name}`" in metrics
        is_setting = name in TokenSettings.model_fields or name in {"intents_closed", "call_id"}
        assert is_told or is_setting, name


def test_every_state_of_a_token_is_explained() -> None:
    told = FAILURES.read_text("utf-8")
    assert {state for state in TokenState if f"`{state}`" not in told} == set()
