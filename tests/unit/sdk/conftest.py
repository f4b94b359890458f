"""Fixtures of the SDK's unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd_client import Client
from tests.unit.sdk.scene import BEFORE, Scene
from tests.unit.sdk.scripted_daemon import ScriptedDaemon


@pytest.fixture
def daemon(socket_dir: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon that holds the key ``root-1``."""
    with ScriptedDaemon(socket_dir / "keyd.sock") as daemon:
        daemon.add_key("root-1")
        yield daemon


@pytest.fixture
def client(daemon: ScriptedDaemon) -> Iterator[Client]:
    with Client(daemon.profile) as client:
        yield client


@pytest.fixture
def profile_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first directory in which profiles are searched."""
    directory = tmp_path / "profiles"
    directory.mkdir()
    monkeypatch.setenv("KEYD_PROFILE_DIR", str(directory))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return directory


@pytest.fixture
def scene(daemon: ScriptedDaemon, tmp_path: Path) -> Scene:
    scene = Scene(daemon, tmp_path / "repository")
    scene.publish(*BEFORE)
    return scene
