"""Options, markers' consequences and the fixtures that every folder of tests may use."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from keyd.errors import KeydError
from tests import worlds
from tests.daemon import Installation, install
from tests.softhsm import SoftHSMToken, create_softhsm

pytest_plugins = ["tests.hanging"]

ROOT = Path(__file__).resolve().parent.parent

# A busy machine is no failure of the code: pytest's timeout is the only clock.
settings.register_profile("keyd", deadline=None)
settings.load_profile("keyd")


@pytest.fixture(autouse=True)
def ledgers_closed() -> Iterator[None]:
    """Close what a test opened: each ledger holds a dozen descriptors and two threads."""
    before = len(worlds.opened)
    yield
    while len(worlds.opened) > before:
        # The anchor may be what the test has broken.
        with contextlib.suppress(OSError, KeydError):
            worlds.opened.pop().close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real metadata and test vectors, kept outside the repository.

    Named by ``KEYD_TEST_DATA``; default ``../shared/data`` beside the repository. Tests that need
    it are skipped where it is absent, and the end of the run says so.
    """
    folder = Path(os.environ.get("KEYD_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; name the folder with KEYD_TEST_DATA")
    return folder


@pytest.fixture
def new_softhsm(tmp_path: Path) -> Callable[[str], SoftHSMToken]:
    """Makes SoftHSM tokens by label, each in a directory and configuration of its own."""

    def create(label: str) -> SoftHSMToken:
        return create_softhsm(tmp_path / f"softhsm-{label}", label)

    return create


@pytest.fixture
def softhsm(new_softhsm: Callable[[str], SoftHSMToken]) -> SoftHSMToken:
    """One SoftHSM token, labelled ``test``, that no other test sees."""
    return new_softhsm("test")


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A directory of mode 0700 whose short name leaves room for a Unix socket's 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="keyd-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def first_installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation that others are copied from. Its daemon does not run."""
    with tempfile.TemporaryDirectory(prefix="keyd-", dir="/tmp") as short:
        return install(Path(short)).copy_to(tmp_path_factory.mktemp("installation"))


@pytest.fixture
def installation(first_installation: Installation, socket_dir: Path) -> Installation:
    """A `keyd serve` of the test's own, with keys and a repository; see tests/daemon.py."""
    return first_installation.copy_to(socket_dir)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly what did not run and why: a skipped test has proved nothing."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in skipped
    )
    terminalreporter.section(f"{len(skipped)} TESTS DID NOT RUN", yellow=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5d}  {reason.removeprefix('Skipped: ')}")
