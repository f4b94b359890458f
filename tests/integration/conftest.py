"""Fixtures of the integration tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.dev_site import DevSite, running_dev_site
from tests.ledgers import Home, furnished, sign, sign_checkpoint
from tests.method_matrix import Matrix, open_matrix
from tests.serving import Place, make_place, serve
from tests.used_ledger import Used, use
from tests.worlds import Author, new_author


@pytest.fixture
def place(tmp_path: Path, socket_dir: Path) -> Iterator[Place]:
    """A world of its own, to be served; the ledger is closed afterwards."""
    made = make_place(tmp_path / "state", socket_dir)
    yield made
    made.world.ledger.close()


@pytest.fixture
def channel(place: Place) -> Iterator[grpc.Channel]:
    """The administrator's channel to a server of that world."""
    with serve(place) as serving:
        yield serving.local()


@pytest.fixture
def author(place: Place) -> Author:
    """Of the repository "demo" in that world, which has no root yet."""
    return new_author(place.world)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """A daemon with one channel for each identity; see tests/method_matrix.py."""
    with (
        tempfile.TemporaryDirectory(prefix="keyd-", dir="/tmp") as sockets,
        open_matrix(tmp_path_factory.mktemp("matrix") / "state", Path(sockets)) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def dev_site() -> Iterator[DevSite]:
    """A running `keyd dev` that a module's tests share; each makes keys of its own."""
    with running_dev_site() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A ledger that signed versions 1 to 5 of targets and is closed."""
    ledger = furnished(tmp_path)
    for version in range(1, 6):
        sign(ledger, version)
    sign_checkpoint(ledger)
    ledger.close()
    return Home(tmp_path)


@pytest.fixture(scope="module")
def used_ledger(tmp_path_factory: pytest.TempPathFactory) -> Used:
    """A ledger that has been through everything, to be left as it is."""
    base = tmp_path_factory.mktemp("used")
    return Used(base, use(base))


@pytest.fixture
def used_copy(used_ledger: Used, tmp_path: Path) -> Home:
    """A copy of it that a test may spoil."""
    for name in ("ledger", "anchor"):
        shutil.copytree(used_ledger.base / name, tmp_path / name)
        (tmp_path / name).chmod(0o700)
    return Home(tmp_path)
