"""Refuses committed text that fits only one machine, or that says where packages come from.

Which registry or mirror serves a machine is that machine's configuration (pip, npm and apt read
it); a name in the tree would override it for everybody else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ANYWHERE = {
    "path of one machine": re.compile(
        r"(?<![\w.~-])/(?:(?:work|farm|root|mnt/data)/|tmp/(?:bash_jobs|brief))"
    ),
    "package registry": re.compile(
        r"\b(?:pypi|pythonhosted|npmjs|nodesource)\.(?:org|com|io)\b"
        r"|\b(?:deb|ftp|security|snapshot)\.debian\.(?:org|net)\b"
    ),
}
IN_REQUIREMENTS = {
    "address or index option": re.compile(
        r"://|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links)\b"
    ),
}


def tracked_files() -> list[Path]:
    """Everything committed or about to be, relative to the working directory."""
    listing = subprocess.run(["git", "ls-files", "-z"], stdout=subprocess.PIPE, check=True)
    return [Path(name) for name in listing.stdout.decode().split("\0") if name]


def objections(path: Path) -> Iterator[str]:
    """One line for each offending line of a text file; binary files have none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return
    rules = ANYWHERE | (IN_REQUIREMENTS if path.parts[0] == "requirements" else {})
    for number, line in enumerate(lines, start=1):
        for what, pattern in rules.items():
            if found := pattern.search(line):
                yield f"{path}:{number}: {what}: {found.group()!r}"


def main() -> int:
    """Prints every objection; 1 when there is one."""
    found = [objection for path in tracked_files() for objection in objections(path)]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
