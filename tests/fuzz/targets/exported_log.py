"""Exported logs: a report of everything that is wrong, sound for nothing that the log did not sign.

The four files of an export follow each other, a record separator between them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from keyd.domain.checkpoint import LogKey
from keyd.errors import NotFound
from keyd.ledger.verification.export import CHECKPOINT, ENTRIES, KEYS, PAYLOADS
from keyd.ledger.verification.exported import verify_export
from tests.fuzz.targets import CORPUS, outcome
from tests.ledgers import LOG_PRIVATE, ORIGIN, der

DICTIONARY = "exported.dict"
SEPARATOR = b"\x1e"
FILES = (ENTRIES, CHECKPOINT, KEYS, PAYLOADS)
_DIRECTORY = Path(tempfile.mkdtemp(prefix="keyd-fuzz-"))
atexit.register(shutil.rmtree, _DIRECTORY, ignore_errors=True)
_KEY = LogKey(ORIGIN, der(LOG_PRIVATE))
_GOOD = (CORPUS / "exported_log" / "good").read_bytes().split(SEPARATOR)


def check(data: bytes) -> None:
    parts = data.split(SEPARATOR, len(FILES) - 1)
    for name in FILES:
        (_DIRECTORY / name).unlink(missing_ok=True)
    for name, content in zip(FILES, parts, strict=False):
        (_DIRECTORY / name).write_bytes(content)
    report = outcome(NotFound, verify_export, _DIRECTORY, _KEY)
    if isinstance(report, NotFound):
        assert len(parts) < len(FILES)
        return
    assert len(report.flaws) <= report.flaw_count
    for flaw in report.flaws:
        str(flaw).encode(errors="backslashreplace")
    if report.sound:
        # Whoever has no key cannot have signed another list of entries.
        assert parts[0].splitlines() == _GOOD[0].splitlines()
        assert parts[1].split(b"\n\n")[0] == _GOOD[1].split(b"\n\n")[0]
