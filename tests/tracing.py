"""System calls of a daemon and its worker, as strace saw them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_CALL = re.compile(r"(\d+) +(\w+)\(\d+<(UNIX-STREAM:\[[^]]*\]|[^>]*)>(.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_UNFINISHED = "<unfinished ...>"


@dataclass(frozen=True)
class SystemCall:
    """A call on a descriptor: `target` is a path, or "[17->18]" and perhaps the path of a socket.

    Flushes stand where they ended well, everything else where it began.
    """

    name: str
    target: str
    data: bytes

    def writes(self, target: str) -> bool:
        return self.name in ("write", "pwrite64") and self.target.endswith(target)

    def flushes(self, target: str) -> bool:
        return self.name in ("fdatasync", "fsync") and self.target.endswith(target)


def strace(output: Path, calls: str) -> tuple[str, ...]:
    """What starts a program so that these calls of it and its children are written to `output`.

    The program is the child of whoever starts it, strace a bystander.
    """
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed: apt-get install strace")
    options = ("-D", "-f", "-qq", "-yy", "-xx", "-s", "100000", "-e", f"trace={calls}")
    return (path, *options, "-o", str(output))


def read_trace(path: Path) -> Iterator[SystemCall]:
    """The calls in the order in which strace saw them."""
    unfinished: dict[tuple[str, str], str] = {}
    for line in path.read_text().splitlines():
        if resumed := _RESUMED.fullmatch(line):
            process, name, result = resumed.groups()
            target = unfinished.pop((process, name), None)
            if target is not None and result == "0":
                yield SystemCall(name, target, b"")
        elif call := _CALL.fullmatch(line):
            process, name, target, rest = call.groups()
            target = _readable(target)
            if not name.endswith("sync"):
                data = b"".join(
                    bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(rest)
                )
                yield SystemCall(name, target, data)
            elif rest.endswith(_UNFINISHED):
                unfinished[process, name] = target
            elif rest.endswith("= 0"):
                yield SystemCall(name, target, b"")


def _readable(target: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), target)
