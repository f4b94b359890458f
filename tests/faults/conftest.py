"""Tokens behind the misbehaving module, and daemons that hostile clients are let loose on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyd.backends import supervisor
from tests.daemon import Installation
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import Shim, build_shim
from tests.softhsm import SoftHSMToken
from tests.tls_sites import Target, TlsSite


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def new_shim(
    shim_module: Path, new_softhsm: Callable[[str], SoftHSMToken], tmp_path: Path
) -> Callable[[str], Shim]:
    """Makes tokens by label, each behind a shim with a control directory of its own."""

    def create(label: str) -> Shim:
        directory = tmp_path / f"shim-{label}"
        directory.mkdir()
        return Shim(directory, new_softhsm(label), shim_module)

    return create


@pytest.fixture
def shim(new_shim: Callable[[str], Shim]) -> Shim:
    return new_shim("test")


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose flushes cost nothing, where there is one: for states made by the thousand."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="keyd-", dir=shared) as name:
        yield Path(name)


@pytest.fixture
def journal() -> MemoryTokenJournal:
    return MemoryTokenJournal()


@pytest.fixture
def target(installation: Installation, tmp_path: Path) -> Iterator[Target]:
    """Serves, on TLS too; one identity may have 64 calls in flight. It must end in good order."""
    site = TlsSite(installation, tmp_path)
    site.configure(calls_in_flight="64")
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        yield Target(installation, site, daemon)
        assert daemon.stop() == 0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that tries again sooner: only so can hundreds of recoveries take minutes."""
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(supervisor, "_LAST_DELAY_S", 0.2)
    monkeypatch.setattr(supervisor, "_STEADY_S", 0.0)
    monkeypatch.setattr(supervisor, "_GRACE_S", 0.5)
