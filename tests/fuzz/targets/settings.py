"""The daemon's configuration: typed problems, or settings that keep what they promise.

After the file follow, each behind a record separator, variables such as ``KEYD_LOG_LEVEL=info``.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import tempfile
from pathlib import Path

from keyd.config.checks import unusable_files
from keyd.config.load import load_settings, variables
from keyd.config.problems import ConfigurationError
from keyd.config.settings import SOCKET_PATH_BYTES, Settings, split_address
from keyd.daemon.assemble import listeners, server_options, token_configs
from keyd.domain.token_uri import parse_token_uri
from keyd.errors import Finding
from tests.fuzz.targets import outcome

DICTIONARY = "settings.dict"
SEPARATOR = b"\x1e"
_DIRECTORY = Path(tempfile.mkdtemp(prefix="keyd-fuzz-"))
atexit.register(shutil.rmtree, _DIRECTORY, ignore_errors=True)
_FILE = _DIRECTORY / "keyd.toml"


def check(data: bytes) -> None:
    content, *overrides = data.split(SEPARATOR)
    _write(content)
    pairs = [text.decode(errors="replace").partition("=") for text in overrides]
    environment = {name: value for name, _, value in pairs}
    found = outcome(ConfigurationError, load_settings, _FILE, environment, {})
    if isinstance(found, ConfigurationError):
        _check_findings(found.findings)
        assert found.findings
        return
    # A misspelt variable of ours is told, never passed over.
    sections = tuple(f"KEYD_{name.upper()}_" for name in Settings.model_fields)
    assert not [n for n in environment if n.startswith(sections) and n not in variables()]
    _check_settings(found)
    _check_findings(unusable_files(found))


def _check_findings(findings: list[Finding] | tuple[Finding, ...]) -> None:
    for finding in findings:
        assert finding.reason
        finding.message.encode(errors="backslashreplace")


def _check_settings(settings: Settings) -> None:
    """What the daemon takes for granted once the settings are read."""
    daemon = settings.daemon
    assert daemon.ledger.is_absolute()
    assert daemon.anchor.is_absolute()
    assert daemon.ledger not in (daemon.anchor, *daemon.anchor.parents)
    sockets = [one.path for one in settings.listen.unix]
    assert len(set(sockets)) == len(sockets)
    assert all(len(os.fsencode(path)) <= SOCKET_PATH_BYTES for path in sockets)
    if settings.metrics.address:
        assert ipaddress.ip_address(split_address(settings.metrics.address)[0]).is_loopback
    assert listeners(settings)
    server_options(settings)
    for token in token_configs(settings):
        parse_token_uri(token.uri)


def _write(content: bytes) -> None:
    descriptor = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
