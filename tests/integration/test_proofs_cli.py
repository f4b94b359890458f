"""Commands that ask a running daemon are its clients, like any other: through `keyd_client`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyd.domain import canonical
from tests.daemon import Installation
from tests.running import clean_environment

# Runs a command line and tells, as the last line, what the process opened and imported.
OBSERVED = """
import json, sys
seen = []
def note(event, arguments):
    if event in ("open", "sqlite3.connect", "ctypes.dlopen"):
        seen.append((event, str(arguments[0])))
sys.addaudithook(note)
from keyd.cli.main import run
code = run(sys.argv[1:])
modules = [name for name in sys.modules if name.partition(".")[0] in ("keyd", "keyd_client")]
print(json.dumps({"code": int(code), "seen": seen, "modules": modules}))
"""
REMOTE = (
    "audit verify",
    "check {file}",
    "key create new --token hsm",
    "key list",
    "repo state",
    "sign --key timestamp {file}",
    "token keys hsm",
)


@dataclass(frozen=True)
class Observed:
    code: int
    seen: list[tuple[str, str]]
    modules: set[str]


def observe(installation: Installation, *arguments: str) -> Observed:
    done = subprocess.run(
        [sys.executable, "-P", "-c", OBSERVED, *arguments],
        env=clean_environment({"KEYD_PROFILE_DIR": str(installation.profiles)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Observed(told["code"], [tuple(one) for one in told["seen"]], set(told["modules"]))


def test_remote_commands_open_nothing_of_the_daemons(
    installation: Installation, tmp_path: Path
) -> None:
    payload = tmp_path / "timestamp.json"
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        writer = installation.recorder().writer
        payload.write_bytes(canonical.encode(writer.timestamp(2)))
        for command in REMOTE:
            line = command.format(file=payload)
            check_remote(installation, line, observe(installation, *line.split()))
        assert daemon.stop() == 0


def check_remote(installation: Installation, line: str, observed: Observed) -> None:
    assert observed.code == 0, line
    assert "keyd_client.channel" in observed.modules, line
    state = (installation.ledger, installation.anchor, installation.softhsm, installation.config)
    opened = [path for event, path in observed.seen if event == "open"]
    assert any(path == str(installation.profiles / "default.toml") for path in opened), line
    for path in opened:
        assert not any(Path(path).is_relative_to(place) for place in state), (line, path)
    assert "sqlite3.connect" not in {event for event, _ in observed.seen}, line
    # Pure parts of keyd.ledger verify an exported log.
    daemons = ("keyd.daemon", "keyd.backends", "keyd.services", "keyd.rpc.server")
    assert not [name for name in observed.modules if name.startswith(daemons)], line


def test_the_observer_sees_what_it_looks_for(installation: Installation) -> None:
    """Seeded: a command that does open the ledger."""
    line = f"ledger verify --config {installation.config}"
    with pytest.raises(AssertionError):
        check_remote(installation, line, observe(installation, *line.split()))
