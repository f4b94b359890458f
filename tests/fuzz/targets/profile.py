"""Client profiles: a profile that can be used, or one typed error that names the file."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from keyd_client import profile
from keyd_client.errors import ProfileError
from keyd_client.uri import valid_name
from tests.fuzz.targets import outcome

DICTIONARY = "profile.dict"
_DIRECTORY = Path(tempfile.mkdtemp(prefix="keyd-fuzz-"))
atexit.register(shutil.rmtree, _DIRECTORY, ignore_errors=True)
_FILE = _DIRECTORY / "p.toml"


def check(data: bytes) -> None:
    _write(data)
    found = outcome(ProfileError, profile.load, _FILE)
    if isinstance(found, ProfileError):
        assert found.reason in {"PROFILE_INVALID", "PROFILE_UNREADABLE"}
        assert str(_FILE) in found.message
        return
    assert found.target.startswith(("unix:/", "dns:"))
    assert 0 < found.timeout_s <= 3600
    assert not found.repository or valid_name(found.repository)
    assert len(found.credential_files) == (3 if found.target.startswith("dns:") else 0)
    outcome(ProfileError, profile.read_credentials, found)


def _write(data: bytes) -> None:
    descriptor = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
