"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Place, make_place


@pytest.fixture
def place(tmp_path: Path, socket_dir: Path) -> Iterator[Place]:
    """A world of its own, to be served; the ledger is closed afterwards."""
    made = make_place(tmp_path / "state", socket_dir)
    yield made
    made.world.ledger.close()
