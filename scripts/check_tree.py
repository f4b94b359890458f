"""Refuses committed text that fits only one machine or names a registry, and code grown too long.

Which registry or mirror serves a machine is that machine's configuration (pip, npm and apt read
it); a name in the tree would override it for everybody else. A file or function that is longer than
the limits below is several things under one name: split it by subject.
"""

from __future__ import annotations

import ast
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
CODE = {".py", ".sh", ".c", ".h"}
GENERATED = re.compile(r"_pb2(?:_grpc)?\.py$")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50


def tracked_files() -> list[Path]:
    """Everything committed or about to be, relative to the working directory."""
    listing = subprocess.run(["git", "ls-files", "-z"], stdout=subprocess.PIPE, check=True)
    return [Path(name) for name in listing.stdout.decode().split("\0") if name]


def objections(path: Path) -> Iterator[str]:
    """One line for each offence of a text file; binary files have none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return
    lines = text.splitlines()
    yield from unfit_words(path, lines)
    if path.suffix in CODE and not GENERATED.search(path.name):
        if len(lines) > FILE_LINES_MAX:
            yield f"{path}: {len(lines)} lines, {FILE_LINES_MAX} at most"
        if path.suffix == ".py":
            yield from long_functions(path, text)


def unfit_words(path: Path, lines: list[str]) -> Iterator[str]:
    """Words that do not belong into any file, or not into this one."""
    rules = ANYWHERE | (IN_REQUIREMENTS if path.parts[0] == "requirements" else {})
    for number, line in enumerate(lines, start=1):
        for what, pattern in rules.items():
            if found := pattern.search(line):
                yield f"{path}:{number}: {what}: {found.group()!r}"


def long_functions(path: Path, text: str) -> Iterator[str]:
    """Functions and methods longer than the limit, from `def` to their last line."""
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                where = f"{path}:{node.lineno}: {node.name}"
                yield f"{where}: {length} lines, {FUNCTION_LINES_MAX} at most"


def main() -> int:
    """Prints every objection; 1 when there is one."""
    found = [objection for path in tracked_files() for objection in objections(path)]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
