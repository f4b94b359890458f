"""The bugs of bugs.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.seeded.tree import Edit
from tests.tally import Promise

TABLE = Path(__file__).with_name("bugs.toml")


@dataclass(frozen=True)
class Bug:
    """What to change, the tests that must fail then, and what their failure must say."""

    name: str
    breaks: Promise
    edits: tuple[Edit, ...]
    gate: tuple[str, ...]
    shows: str
    seconds: int
    timeout_s: int

    def shown_in(self, report: str) -> bool:
        return re.search(self.shows, report) is not None


def read_bugs() -> tuple[Bug, ...]:
    """Every bug of the table. Raises: KeyError for one that lacks something."""
    return tuple(map(_bug, tomllib.loads(TABLE.read_text("utf-8"))["bug"]))


def _bug(row: Mapping[str, Any]) -> Bug:
    return Bug(
        name=row["name"],
        breaks=Promise[row["breaks"]],
        edits=tuple(Edit(each["file"], each["old"], each["new"]) for each in row["edit"]),
        gate=tuple(row["gate"]),
        shows=row["shows"],
        seconds=row.get("seconds", 10),
        timeout_s=row.get("timeout_s", 120),
    )
