"""The anchor: what the ledger had reached, kept in another directory, to notice a ledger that lost.

A journal of JSON lines, `anchor.jsonl`: a header, then per commit group the log's size and root and
the high-water marks it raised, then signed checkpoints. A line is written after the group's COMMIT
and before those who wait for the group are answered: no token is asked before its version's mark is
here, and kill -9 of the process loses none, for the page cache survives that. If the line cannot be
written, they are refused; a signature that is recorded may be read by who asks again, though its
entry is not told here yet. Its mark is, so an older ledger still refuses its version. Lines are
flushed to the medium only once a second, at checkpoints and on closing: flushing each would double
the cost of a commit, and a power loss in between can only make the anchor *older*, which is no more
than a ledger that is ahead of it. An anchor can thus miss the last second before a power loss,
never claim too much.

Each line ends with the CRC-32 of what stands before it: damage is told from a torn last line. A
power loss may also leave a hole, where a page did not reach the medium while a later one did: it
reads as NUL bytes, which no line has. Lines with NUL bytes are passed over, and later lines count:
each names a whole size and root, and marks only rise. Such an anchor lacks marks of the last second
and refuses nothing. The first two lines were flushed before the file had its name: a hole in them,
or any other unreadable line before a readable one, is ANCHOR_CORRUPT.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keyd.errors import StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger.directory import (
    Lock,
    check_directory,
    check_file,
    create_file,
    flush_directory,
    flush_file,
    make_directory,
)
from keyd.ledger.marks import Mark, Marks

FILE = "anchor.jsonl"
_LOCK = "anchor.lock"
_FORMAT = 1
Line = dict[str, Any]
_SYNC_S = 1.0
_REWRITE_BYTES = 4 << 20
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass
class AnchorState:
    """What an anchor knows of the ledger `ledger_id`: log size, root, marks, last checkpoint."""

    ledger_id: str
    size: int
    root: bytes
    marks: Marks = field(default_factory=Marks)
    checkpoint: str = ""

    def take(self, line: Line) -> None:
        """Apply a parsed line. Raises: KeyError, TypeError, ValueError."""
        if "checkpoint" in line:
            self.checkpoint = line["checkpoint"]
            return
        self.size, self.root = line["size"], bytes.fromhex(line["root"])
        for repository, role, epoch, version, digest in line["marks"]:
            self.marks.rise(Mark(repository, role, epoch, version, digest))


def exists(directory: Path) -> bool:
    """Whether an anchor lies in the directory (a link counts: it must not be overwritten)."""
    path = directory / FILE
    return os.path.lexists(path)


def load(directory: Path) -> AnchorState:
    """Read an anchor without changing it.

    Raises: NotAllowed (STATE_PATH_UNSAFE), StateCorrupt (ANCHOR_CORRUPT), FileNotFoundError.
    """
    check_directory(directory)
    check_file(directory / FILE)
    try:
        return _assemble((directory / FILE).read_bytes().split(b"\n"))
    except (KeyError, TypeError, ValueError) as error:
        raise StateCorrupt(
            "ANCHOR_CORRUPT",
            f"{directory / FILE} is damaged; restore it, or make a new one with "
            "keyd ledger repair --replace-anchor",
        ) from error


def _assemble(raw: list[bytes]) -> AnchorState:
    # The file is appended to without a flush each time: a power cut may leave zeros where a page
    # did not reach the medium while later ones did. The first two lines were flushed with the name.
    parsed = [_parse(line) for n, line in enumerate(raw) if n < 2 or b"\0" not in line]
    # An unreadable line before a readable one is damage; after the last one it is a torn write.
    while parsed and parsed[-1] is None:
        parsed.pop()
    lines = [line for line in parsed if line is not None]
    if len(lines) != len(parsed) or len(lines) < 2 or lines[0]["anchor"] != _FORMAT:
        raise ValueError("a line is missing or damaged")
    state = AnchorState(lines[0]["ledger"], 0, b"")
    for line in lines[1:]:
        state.take(line)
    return state


def _render(line: Line) -> bytes:
    body = _encode(line)[:-1].encode()
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def _parse(line: bytes) -> Line | None:
    body, separator, checksum = line.rpartition(b',"crc":"')
    if not separator or checksum != b'%08x"}' % zlib.crc32(body):
        return None
    parsed: Line = json.loads(body + b"}")
    return parsed


def _write(descriptor: int, data: bytes) -> int:
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError("a line of the anchor was cut short")
    return written


def write(directory: Path, state: AnchorState) -> int:
    """Replace the anchor's file atomically by the essence of `state`; return its descriptor.

    Raises: OSError.
    """
    new = directory / f"{FILE}.new"
    new.unlink(missing_ok=True)
    descriptor = create_file(new)
    try:
        _write(descriptor, _essence(state))
        os.fsync(descriptor)
        failpoint(Failpoint.LEDGER_ANCHOR_REWRITTEN)
        new.rename(directory / FILE)
        flush_directory(directory)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def set_aside(directory: Path, now: datetime) -> None:
    """Copy an anchor that is about to be replaced: it may be another ledger's. Raises: OSError.

    It stands until `write` replaces it: cut short in between, it still refuses what it refused.
    """
    if exists(directory):
        kept = directory / f"{FILE}.replaced-{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
        shutil.copy2(directory / FILE, kept, follow_symlinks=False)
        if not kept.is_symlink():
            flush_file(kept)
        flush_directory(directory)


def _essence(state: AnchorState) -> bytes:
    lines: list[Line] = [
        {"anchor": _FORMAT, "ledger": state.ledger_id},
        {"size": state.size, "root": state.root.hex(), "marks": list(state.marks)},
    ]
    if state.checkpoint:
        lines.append({"checkpoint": state.checkpoint})
    return b"".join(_render(line) for line in lines)


class Anchor:
    """An open anchor, owned by this process."""

    def __init__(
        self,
        directory: Path,
        state: AnchorState,
        lock: Lock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write the file anew with `state`. Raises: OSError."""
        self.directory = directory
        self._path = str(directory / FILE)
        self.state = state
        self._lock = lock
        self._monotonic = monotonic
        self._descriptor = -1
        self._dirty = False
        self._rewrite()

    def record(self, size: int, root: bytes, marks: Iterable[Mark]) -> None:
        """Append what a commit group reached. Raises: OSError; the next call tries all anew."""
        raised = [mark for mark in marks if self.state.marks.rise(mark)]
        if size == self.state.size and not raised and self._descriptor >= 0:
            return
        self.state.size, self.state.root = size, root
        self._append({"size": size, "root": root.hex(), "marks": raised})
        if self._monotonic() - self._synced_at >= _SYNC_S:
            self.sync()

    def record_checkpoint(self, note: str) -> None:
        """Append a signed checkpoint and flush. Raises: OSError."""
        self.state.checkpoint = note
        self._append({"checkpoint": note})
        self.sync()

    def sync(self) -> None:
        """Flush what was appended to the medium. Raises: OSError."""
        if self._dirty and self._descriptor >= 0:
            try:
                os.fdatasync(self._descriptor)
            except OSError:
                # After a failed flush the file's pages are in doubt: write all anew next time.
                self._close_file()
                raise
            self._dirty = False
        self._synced_at = self._monotonic()

    def close(self) -> None:
        """Flush, close and give the lock back. Raises: OSError."""
        try:
            self.sync()
        finally:
            self._close_file()
            self._lock.release()

    def _append(self, line: Line) -> None:
        if self._descriptor < 0 or self._bytes > self._rewrite_at or not self._in_place():
            # After a failed write the file's tail is in doubt, and marks may be missing from it.
            self._rewrite()
            return
        try:
            self._bytes += _write(self._descriptor, _render(line))
        except OSError:
            self._close_file()
            raise
        self._dirty = True

    def _in_place(self) -> bool:
        """Whether the file still lies under its name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _rewrite(self) -> None:
        self._close_file()
        self._descriptor = write(self.directory, self.state)
        self._bytes = os.fstat(self._descriptor).st_size
        self._rewrite_at = max(_REWRITE_BYTES, 4 * self._bytes)
        self._dirty = False
        self._synced_at = self._monotonic()

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock(directory: Path) -> Lock:
    """Own the anchor's directory, made if need be.

    Raises: BackendUnavailable (ANCHOR_IN_USE), NotAllowed, OSError.
    """
    make_directory(directory)
    return Lock(directory / _LOCK, "ANCHOR_IN_USE")
