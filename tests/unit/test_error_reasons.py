"""Every reason that the daemon can give is documented: programs compare them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REASON = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
# Caught where it is raised for, and tried again.
NEVER_TOLD = {"STATE_MOVED"}
# Whose strings in capitals are reasons; the worker's codes stay inside, and the settings and
# commands have reference pages of their own.
PACKAGES = ("domain", "services", "ledger", "backends", "rpc", "daemon")


def reasons(source: str) -> Iterator[str]:
    """Strings that look like a reason and are given to a call, except to look something up."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).endswith((".get", "getenv")):
            continue
        for argument in node.args:
            value = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(value, str) and REASON.fullmatch(value):
                yield value


def sources() -> list[Path]:
    return [
        path for package in PACKAGES for path in sorted((ROOT / "keyd" / package).rglob("*.py"))
    ]


@pytest.fixture(scope="module")
def documented() -> frozenset[str]:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    return frozenset(REASON.findall("".join(page.read_text() for page in pages)))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_reasons_are_documented(path: Path, documented: frozenset[str]) -> None:
    missing = set(reasons(path.read_text())) - documented - NEVER_TOLD
    assert not missing, f"describe {sorted(missing)} in docs/reference/errors.md"


def test_the_search_finds_reasons() -> None:
    source = 'raise NotFound("KEY_UNKNOWN", "list them")\nos.environ.get("NO_COLOR")'
    assert list(reasons(source)) == ["KEY_UNKNOWN"]
    assert len(sources()) > 50
