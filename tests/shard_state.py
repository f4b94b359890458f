"""What is kept of the slow tests' runs: outcome, report and tally of each shard.

`build/shards/TREE/` holds them, TREE being a digest of all files but documentation, so that nothing
is taken for a run of other code. The folders of several machines can be copied into one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a shard's run came to; kept as JSON."""

    passed: int
    failed: int
    skipped: int
    seconds: int
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every test passed or was skipped, and there was one."""
        return self.failed == 0 and self.passed + self.skipped > 0


@dataclass(frozen=True)
class State:
    """The folder of one tree's runs. Shards are named by a digest of their tests."""

    folder: Path

    @property
    def quick_tally(self) -> Path:
        """Where the quick tests of `make test` count what they inject."""
        return self.folder / "quick.tally"

    def keep_plan(self, names: Sequence[str]) -> None:
        """Remember which shards there are at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._plan.write_text(json.dumps(names))

    def plan(self) -> list[str]:
        """The names of all shards, run or not."""
        return list(json.loads(self._plan.read_text())) if self._plan.exists() else []

    def keep(self, name: str, outcome: Outcome) -> None:
        """Record how a shard ended."""
        self._outcome(name).write_text(json.dumps(asdict(outcome)))

    def outcome(self, name: str) -> Outcome | None:
        """How this shard's last run on the same files ended."""
        path = self._outcome(name)
        return Outcome(**json.loads(path.read_text())) if path.exists() else None

    def report(self, name: str) -> Path:
        """pytest's own report of the shard's last run."""
        return self.folder / f"{name}.xml"

    def log(self, name: str) -> Path:
        """All that the shard's last run said."""
        return self.folder / f"{name}.log"

    def tally(self, name: str) -> Path:
        """What the shard's last run injected."""
        return self.folder / f"{name}.tally"

    def begin(self, name: str) -> None:
        """Forget an earlier run."""
        self._outcome(name).unlink(missing_ok=True)
        self.report(name).unlink(missing_ok=True)
        self.log(name).unlink(missing_ok=True)
        shutil.rmtree(self.tally(name), ignore_errors=True)

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    def _outcome(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def current(base: Path) -> State:
    """The state that belongs to the files as they are now."""
    return State(base / tree_digest())


def tree_digest() -> str:
    """Names the state of all files but documentation, tracked and new; any edit of them changes it.

    A commit does not change it: the report that ends a run can be published without another run.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    digest = hashlib.sha256()
    for name in sorted({name for name in listed.split("\0") if name and not name.endswith(".md")}):
        path = Path(name)
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
