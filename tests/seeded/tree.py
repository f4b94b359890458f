"""A copy of the checkout with a bug in it, and what its own tests say then.

The daemon and its workers run as `sys.executable -I -m ...`, which hears of no PYTHONPATH, so the
copy has an interpreter of its own that finds the copy first and our installed packages after it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("keyd", "client_sdk", "tests", "pyproject.toml")
LINKED = ("bench", "contrib", "demo", "docs", "protos", "scripts", "softhsm-setup")
# What a seeded bug that is itself broken fails with: it proves nothing about the gate.
BROKEN = re.compile(r"\b(NameError|ImportError|ModuleNotFoundError|SyntaxError|AttributeError)\b")


@dataclass(frozen=True)
class Edit:
    """Replaces `old`, which must stand in the file exactly once; `path` is below the root."""

    path: str
    old: str
    new: str

    def applied_to(self, text: str) -> str:
        """Raises: ValueError when the code has changed so that the bug no longer fits."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.path} has {found} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Verdict:
    """What pytest came to. `failures` are the reports of tests that failed by themselves."""

    code: int
    passed: int
    failures: tuple[str, ...]
    output: str

    @property
    def green(self) -> bool:
        return self.code == 0 and self.passed > 0

    @property
    def red(self) -> bool:
        """A test failed, and by what it looks at."""
        return self.code == 1 and bool(self.failures) and not any(map(BROKEN.search, self.failures))


def seeded(edits: Sequence[Edit]) -> dict[str, str]:
    """The edited files' texts by path. Raises: ValueError, SyntaxError."""
    texts: dict[str, str] = {}
    for edit in edits:
        text = texts.get(edit.path) or (ROOT / edit.path).read_text("utf-8")
        texts[edit.path] = edit.applied_to(text)
    for path, text in texts.items():
        if path.endswith(".py"):
            compile(text, path, "exec")
    return texts


class Tree:
    """A checkout at `root`, which must not exist yet."""

    def __init__(self, root: Path, edits: Sequence[Edit] = ()) -> None:
        self.root = root
        root.mkdir()
        for name in COPIED:
            # With the compiled files beside them: they are valid as long as a source is as old.
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, root / name)
        for name in LINKED:
            (root / name).symlink_to(ROOT / name)
        for path, text in seeded(edits).items():
            (root / path).write_text(text, "utf-8")
        self._python = _interpreter(root)

    def run(self, gates: Sequence[str], timeout_s: int) -> Verdict:
        """Run tests by their ids; each may take `timeout_s`."""
        report = self.root / "report.xml"
        options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-m", "", "-o"]
        options += [f"timeout={timeout_s}", f"--junitxml={report}"]
        options += [f"--basetemp={self.root / 'tmp'}", "--tb=short"]
        done = subprocess.run(
            [self._python, "-m", "pytest", *options, *gates],
            cwd=self.root,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        cases = list(ET.parse(report).getroot().iter("testcase")) if report.exists() else []
        return Verdict(
            code=done.returncode,
            passed=sum(len(case.findall("*")) == 0 for case in cases),
            failures=tuple(
                f"{case.get('name')}: {failure.get('message')}\n{failure.text}"
                for case in cases
                for failure in case.iter("failure")
            ),
            output=done.stdout,
        )


def _interpreter(root: Path) -> Path:
    """A virtual environment's python that imports from `root` what we import from our checkout."""
    venv.EnvBuilder(symlinks=True).create(root / ".venv")
    [packages] = (root / ".venv" / "lib").glob("python*/site-packages")
    places = (root, root / "client_sdk" / "src", sysconfig.get_path("purelib"))
    (packages / "checkout.pth").write_text("".join(f"{place}\n" for place in places))
    return root / ".venv" / "bin" / "python"


def _environment() -> dict[str, str]:
    """Ours, without what configures keyd, pytest or Python; a bug's injections are not tallied."""
    ours = ("KEYD_", "PYTEST_", "PYTHON", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    data = os.environ.get("KEYD_TEST_DATA") or str(ROOT.parent / "shared" / "data")
    return kept | {"KEYD_TEST_DATA": data}
