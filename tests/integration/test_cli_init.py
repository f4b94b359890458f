"""What `keyd init` writes, whoever installs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.running import keyd


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_keyds_user_can_read_what_root_installs(tmp_path: Path, umask: int) -> None:
    config = tmp_path / "etc" / "keyd.toml"
    before = os.umask(umask)
    try:
        done = keyd("init", "--config-only", "--config", config)
    finally:
        os.umask(before)
    assert done.code == 0, done.err
    modes = {path.name: path.stat().st_mode & 0o777 for path in config.parent.iterdir()}
    assert modes == {"keyd.toml": 0o644, "policy.toml": 0o644}
    assert config.parent.stat().st_mode & 0o777 == 0o755
