"""The subject of this run, opened once per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.backends.token import WorkerToken
from keyd.backends.tokens import TokenFleet
from tests.conformance.subject import NAME, Subject, configured, softhsm_subject
from tests.fakes import MemoryTokenJournal
from tests.fleets import running


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    if path := os.environ.get("KEYD_CONFORMANCE"):
        return configured(Path(path))
    return softhsm_subject(request.getfixturevalue("softhsm"))


@pytest.fixture
def journal() -> MemoryTokenJournal:
    return MemoryTokenJournal()


@pytest.fixture
def fleet(subject: Subject, journal: MemoryTokenJournal) -> Iterator[TokenFleet]:
    with running(subject.config, journal=journal) as fleet:
        yield fleet


@pytest.fixture
def token(fleet: TokenFleet) -> WorkerToken:
    return fleet.get(NAME)
