"""Client certificates that are refused on every call, open connections included.

The list is a text file, one entry a line, `#` begins a comment:

    serial:0f3a9c…      serial number in hexadecimal, as `openssl x509 -serial` prints it
    key-sha256:9b0f…    SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits

It is looked at again when a call comes and a second has passed. Replace it by renaming a finished
file over it. A list that cannot be read refuses everybody: better nobody than a revoked key.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keyd import trusted_paths
from keyd.errors import BackendUnavailable, Unauthenticated
from keyd.rpc.peer import Peer

_ENTRY = re.compile(r"(?:(serial):([0-9a-fA-F]{1,40})|(key-sha256):([0-9a-fA-F]{64}))")
_LOOK_AGAIN_S = 1.0
_FILE_MAX = 4 << 20


@dataclass(frozen=True)
class _Entries:
    serials: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()
    fault: str = ""


class RevocationList:
    """One file of revoked serials and keys. Safe between threads."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._mark: tuple[int, ...] = ()
        self._looked_at = float("-inf")
        self._entries = _Entries(fault="not read yet")

    def check(self, peer: Peer) -> None:
        """Raises: Unauthenticated (CERTIFICATE_REVOKED), BackendUnavailable (list unreadable)."""
        entries = self._current()
        if entries.fault:
            raise BackendUnavailable(
                "REVOCATION_LIST_UNREADABLE",
                f"the daemon cannot read its revocation list ({entries.fault}), so it trusts no "
                "certificate; its operator must mend the file",
            )
        if peer.serial in entries.serials or peer.key_sha256 in entries.keys:
            raise Unauthenticated(
                "CERTIFICATE_REVOKED", "this client certificate has been revoked; get a new one"
            )

    def fault(self) -> str:
        """What is wrong with the file now, in words; "" if nothing is."""
        return self._current().fault

    def _current(self) -> _Entries:
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at >= _LOOK_AGAIN_S:
                self._looked_at = now
                self._look()
            return self._entries

    def _look(self) -> None:
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if mark == self._mark:
                return
            # The words reach clients, so they name no path; keyd config check does.
            if trusted_paths.file_objection(self._path):
                raise ValueError("others could change it")
            if found.st_size > _FILE_MAX:
                raise ValueError(f"larger than {_FILE_MAX} bytes")
            self._entries = _parse(self._path.read_text(encoding="ascii"))
            self._mark = mark
        except OSError as error:
            self._mark, self._entries = (), _Entries(fault=error.strerror or "unreadable")
        except ValueError as error:
            self._mark, self._entries = (), _Entries(fault=str(error))


def _parse(text: str) -> _Entries:
    serials, keys = set(), set()
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ValueError(f"line {number} is neither serial:HEX nor key-sha256:HEX")
        if found[1]:
            serials.add(int(found[2], 16))
        else:
            keys.add(found[4].lower())
    return _Entries(frozenset(serials), frozenset(keys))
