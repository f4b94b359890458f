"""A short run of the fuzzing engine on every target, going on from what earlier runs found."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.conftest import ROOT
from tests.fuzz import targets
from tests.fuzz.__main__ import fuzz
from tests.tally import Promise, tallied

SECONDS = 30


@pytest.mark.slow(seconds=45)
@pytest.mark.parametrize("name", targets.NAMES)
def test_short_run(name: str) -> None:
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed: make fuzz installs it, and fuzzes for longer")
    with tallied(Promise.NO_INTERNAL, "inputs by coverage-guided fuzzing") as tally:
        run = fuzz(name, SECONDS, ROOT / "build" / "fuzz" / name)
        print(run)
        tally.injected(run.executions)
        assert run.code == 0, run
