"""A running `keyd dev`, and the commands typed beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.running import Done, dev, keyd


@dataclass(frozen=True)
class DevSite:
    """A running `keyd dev` that the tests of a module share; each makes keys of its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"KEYD_PROFILE_DIR": str(self.folder / "profiles")}

    def keyd(self, *arguments: str | Path, stdin: str = "") -> Done:
        return keyd(*arguments, environment=self.environment, stdin=stdin)

    def json(self, *arguments: str | Path) -> Any:
        done = self.keyd(*arguments, "--json")
        assert done.code == 0, done.err
        assert done.json["version"] == 1
        return done.json

    def metadata(self, name: str) -> Path:
        return self.folder / "repository" / "metadata" / name


@contextmanager
def running_dev_site() -> Iterator[DevSite]:
    """Started and ready; stopped, which must end well, with the block."""
    with tempfile.TemporaryDirectory(prefix="keyd-cli-", dir="/tmp") as name:
        folder = Path(name) / "d"
        with dev(folder) as daemon:
            daemon.wait_for_file(folder / "ready")
            yield DevSite(folder)
            assert daemon.stop() == 0
