"""The subjects of this run, each opened once per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.backends.token import WorkerToken
from keyd.backends.tokens import TokenFleet
from tests.conformance.nss import NSSToken, create_nss, find_softokn
from tests.conformance.subject import NAME, Subject, configured, nss_subject, softhsm_subject
from tests.fakes import MemoryTokenJournal
from tests.fleets import running

GIVEN = os.environ.get("KEYD_CONFORMANCE", "")


@pytest.fixture
def nss(tmp_path: Path) -> NSSToken:
    """A database of NSS that no other test sees."""
    module = find_softokn()
    if module is None:
        pytest.skip("no NSS softokn: install libnss3 to try the second PKCS#11 module")
    return create_nss(module, tmp_path / "nss")


@pytest.fixture(params=["configured"] if GIVEN else ["softhsm", "nss"])
def subject(request: pytest.FixtureRequest) -> Subject:
    match request.param:
        case "softhsm":
            return softhsm_subject(request.getfixturevalue("softhsm"))
        case "nss":
            return nss_subject(request.getfixturevalue("nss"))
    return configured(Path(GIVEN))


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
