"""Pages that say where a promise is kept must name code and tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.failpoints import Failpoint

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page for folder in ("adr", "explanation", "security") for page in (DOCS / folder).glob("*.md")
)
ORDER = DOCS / "explanation/order-of-a-signature.md"
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
