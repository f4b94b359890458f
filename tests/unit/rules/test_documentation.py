"""docs/reference/rules.md says all that the rules can say, and the defaults that hold."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from keyd.domain import rules
from keyd.domain.schemes import __file__ as schemes_file
from keyd.domain.trust import RoleRules, default_rules

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "rules.md").read_text()
SOURCES = [*Path(rules.__file__).parent.glob("*.py"), Path(schemes_file)]
REASON = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"')
REASONS = sorted({reason for source in SOURCES for reason in REASON.findall(source.read_text())})


def test_there_are_reasons_to_look_for() -> None:
    assert len(REASONS) > 50


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    assert f"`{reason}`" in PAGE


def test_no_other_reason_is_documented() -> None:
    codes = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED"}
    told = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", PAGE))
    assert told - codes == set(REASONS)


def rows() -> dict[str, list[str]]:
    table = PAGE.partition("## Defaults")[2].partition("### Why these")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells if len(row) == 5 and "`" in row[0]}


@pytest.mark.parametrize("name", [field.name for field in fields(RoleRules)])
def test_every_default_is_documented(name: str) -> None:
    told = dict(zip(("root", "targets", "snapshot", "timestamp"), rows()[name], strict=True))
    for role, text in told.items():
        value = getattr(default_rules(role), name)
        written = "none" if value == () else str(value)
        assert text == (written.lower() if isinstance(value, bool) else written), role
