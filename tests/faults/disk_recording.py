"""What a program did to the files below a directory, call by call, as strace saw it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,unlink,unlinkat"
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)= (-?\d+)(.*)")
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)")
_DESCRIPTOR = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)(?:>\(deleted\)|>)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_NUMBERS = re.compile(r", (\d+)")


class Kind(StrEnum):
    """What is done. A flush covers what was written before it began, and counts once it ended."""

    WRITE = "write"
    TRUNCATE = "truncate"
    FLUSH_BEGINS = "flush begins"
    FLUSHED = "flushed"
    CREATE = "create"
    RENAME = "rename"
    UNLINK = "unlink"
    TOLD = "told"


@dataclass(frozen=True)
class Step:
    """One act on `path`, which lies below the directory; `place` is an offset, a length, or None.

    A write without a place goes to the file's end, as do all of the anchor's.
    """

    kind: Kind
    path: str = ""
    data: bytes = b""
    place: int | None = None
    new_path: str = ""


def record(base: Path, trace: Path, program: str) -> list[Step]:
    """Run a program, Python source, under strace and read what it did below `base`.

    What it writes to standard output stands among the steps as TOLD.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    options = ("-f", "-qq", "-y", "-xx", "-s", "10000000", "-e", f"trace={_CALLS}")
    done = subprocess.run(
        [strace, *options, "-o", str(trace), sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if "ptrace" in done.stderr and done.returncode != 0:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    assert done.returncode == 0, done.stderr
    with trace.open() as lines:
        return list(_Reader(str(base) + "/").steps(lines))


class _Reader:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._begun: dict[tuple[str, str], str] = {}

    def steps(self, lines: Iterator[str]) -> Iterator[Step]:
        for line in lines:
            text = line.rstrip("\n")
            if begun := _BEGUN.fullmatch(text):
                process, name, arguments = begun.groups()
                self._begun[process, name] = arguments
                yield from self._begins(name, arguments)
            elif resumed := _RESUMED.fullmatch(text):
                process, name, _, result, _ = resumed.groups()
                arguments = self._begun.pop((process, name))
                if int(result) >= 0:
                    yield from self._ends(name, arguments)
            elif whole := _WHOLE.fullmatch(text):
                _, name, arguments, result, _ = whole.groups()
                if int(result) >= 0:
                    yield from self._begins(name, arguments)
                    yield from self._ends(name, arguments)

    def _begins(self, name: str, arguments: str) -> Iterator[Step]:
        """Writes stand where they began: later calls may already see them."""
        if name not in ("write", "pwrite64", "fsync", "fdatasync"):
            return
        number, path = self._descriptor(arguments)
        if name in ("fsync", "fdatasync"):
            if path is not None:
                yield Step(Kind.FLUSH_BEGINS, path)
            return
        data = _bytes(arguments)[0]
        if number == 1:
            yield Step(Kind.TOLD, data=data)
        elif path is not None:
            place = int(_NUMBERS.findall(arguments)[-1]) if name == "pwrite64" else None
            yield Step(Kind.WRITE, path, data, place)

    def _ends(self, name: str, arguments: str) -> Iterator[Step]:
        if name in ("fsync", "fdatasync", "ftruncate"):
            _, path = self._descriptor(arguments)
            if path is None:
                return
            if name == "ftruncate":
                yield Step(Kind.TRUNCATE, path, place=int(_NUMBERS.findall(arguments)[-1]))
            else:
                yield Step(Kind.FLUSHED, path)
        elif name in ("openat", "rename", "unlink", "unlinkat"):
            paths = [self._below(raw.decode()) for raw in _bytes(arguments)]
            if not paths or paths[0] is None:
                return
            if name == "rename":
                assert paths[1] is not None
                yield Step(Kind.RENAME, paths[0], new_path=paths[1])
            elif name != "openat":
                yield Step(Kind.UNLINK, paths[0])
            elif "O_CREAT" in arguments:
                yield Step(Kind.CREATE, paths[0])

    def _descriptor(self, arguments: str) -> tuple[int, str | None]:
        found = _DESCRIPTOR.match(arguments)
        if found is None:
            return int(arguments.split(",", maxsplit=1)[0].split("<", maxsplit=1)[0]), None
        return int(found[1]), self._below(_unescaped(found[2]).decode())

    def _below(self, path: str) -> str | None:
        return path.removeprefix(self._prefix) if path.startswith(self._prefix) else None


def _bytes(arguments: str) -> list[bytes]:
    return [_unescaped(text) for text in _TEXT.findall(arguments)]


def _unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
