"""Everything that keyd is told to use, spoilt in every way, and a start from it (threat T15).

State is judged in tests/unit/ledger/test_directory.py, path by path, without a daemon; here the
whole program is started, or rather is not.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.daemon import Installation
from tests.running import Daemon
from tests.tally import Promise, tallied

STRANGER = 65534
TYPED = re.compile(
    r"FILE_UNUSABLE|CONFIG_INVALID|TLS_FILES|TOKEN_MODULE_UNSAFE|STATE_PATH_UNSAFE|SOCKET_DIRECTORY"
)
REMEDY = re.compile(r"chmod|chown|must|is no |no directory|symbolic link|cannot be read")


@pytest.fixture
def prepared(installation: Installation) -> Installation:
    """An installation whose files lie in directories that can be spoilt one by one."""
    root = installation.root
    tls, etc, lib = (root / name for name in ("tls", "etc", "lib"))
    for folder in (tls, etc, lib):
        folder.mkdir(mode=0o755)
    authority = Authority()
    authority.server().write(tls, "server")
    (tls / "clients.pem").write_bytes(authority.certificate)
    module = lib / "module.so"
    found = re.search(r'module = "(.*)"', installation.config.read_text())
    assert found is not None
    shutil.copy(found[1], module)
    tcp = (
        f'[listen.tcp]\naddress = "127.0.0.1:0"\ncertificate = "{tls}/server.pem"\n'
        f'key = "{tls}/server.key"\nclient_ca = "{tls}/clients.pem"\n'
    )
    text = installation.config.read_text().replace(found[1], str(module))
    text = text.replace(str(installation.policy), f"{etc}/policy.toml")
    installation.policy.rename(etc / "policy.toml")
    (etc / "keyd.toml").write_text(text + tcp)
    (etc / "keyd.toml").chmod(0o600)
    return installation


def writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def writable_above(path: Path) -> None:
    """Whoever may write the directory may replace what is in it."""
    path.parent.chmod(0o777)


def given_away(path: Path) -> None:
    os.chown(path, STRANGER, -1)


def linked(path: Path) -> None:
    """By a link in a place where others could turn it round."""
    real = path.rename(path.with_name("real"))
    loose = path.parent / "loose"
    loose.mkdir()
    (loose / "link").symlink_to(real)
    path.symlink_to(loose / "link")
    loose.chmod(0o777)


def another_kind(path: Path) -> None:
    if path.is_dir():
        path.rename(path.with_name("real"))
        path.touch(mode=0o600)
    else:
        path.unlink()
        path.mkdir(mode=0o700)


ATTACKS = (writable, writable_above, given_away, linked, another_kind)
PATHS = (
    "etc/keyd.toml",
    "etc/policy.toml",
    "lib/module.so",
    "tls/server.pem",
    "tls/server.key",
    "tls/clients.pem",
    "run/admin",
    "ledger",
    "ledger/ledger.db",
    "ledger/ledger.db-wal",
    "anchor",
    "anchor/anchor.jsonl",
)


def start(installation: Installation) -> Daemon:
    command = ["serve", "--config", str(installation.root / "etc/keyd.toml")]
    return Daemon(
        command + (["--allow-root"] if os.geteuid() == 0 else []),
        installation.root / "log-of-the-start",
    )


def test_the_prepared_installation_starts(prepared: Installation) -> None:
    with start(prepared) as daemon:
        daemon.wait_for("daemon_ready")
        assert daemon.stop() == 0


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", PATHS)
def test_no_start_from_a_path_that_others_decide(
    name: str, attack: Callable[[Path], None], prepared: Installation
) -> None:
    if attack is given_away and os.geteuid():
        pytest.skip("only root can give files away")
    path = prepared.root / name
    if name == "run/admin":
        path.mkdir(mode=0o700)
    if attack is writable_above and path.parent == prepared.root:
        pytest.skip("that would be the directory of everything else as well")
    if not path.exists():
        path.touch(mode=0o600)
    attack(path)
    with tallied(Promise.STATE_GUARDED, f"a path that is {attack.__name__}") as tally:
        tally.injected()
        with start(prepared) as daemon:
            assert daemon.running.wait(60) not in (0, -6, -11)
            said = daemon.log.read_text()
        assert '"daemon_ready"' not in said
        assert str(prepared.root) in said
        assert TYPED.search(said), said[-2000:]
        assert REMEDY.search(said), said[-2000:]
        assert "Traceback" not in said
