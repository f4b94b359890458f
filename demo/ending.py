"""How every demo begins and ends: below a directory that is gone afterwards, with one last line."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from demo.daemon import Place, SetUpFailed
from demo.telling import Unexpected
from keyd_client import KeydClientError


def told(name: str, tell: Callable[[Place], str]) -> int:
    """Tell a story, which returns its figures; returns the exit code (130: interrupted)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    base = Path(tempfile.mkdtemp(prefix="keyd-demo-"))
    try:
        figures = tell(Place(base))
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    except (KeydClientError, SetUpFailed, Unexpected) as error:
        print(f"\n{name}: failed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(base)
    print(f"\n{name}: ok ({figures}, {time.monotonic() - began:.1f} s)")
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # nothing may interrupt the cleaning up
    raise KeyboardInterrupt
