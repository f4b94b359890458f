"""``keyd-run <console-script> [args...]``: run a Python tool so that it knows ``keyd:`` URIs.

For tools that sign through securesystemslib but never import this package. The script must be
installed in the same Python environment. Streams, arguments and exit status are the script's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from keyd_client.signer import register

_USAGE = "usage: keyd-run <console-script> [args...]"
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> Any:
    """Entry point; returns or raises what the script does, or 2 when it cannot be found."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        return _complain(_USAGE)
    found = _find(words[0])
    if found is None:
        return _complain(
            f"keyd-run: no console script {words[0]!r} in {sys.prefix}; install its package there"
        )
    register()
    sys.argv = words
    script: Callable[[], Any] = found.load()
    return script()


def _find(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group="console_scripts", name=name)), None)


def _complain(text: str) -> int:
    sys.stderr.write(text + "\n")
    return _USAGE_ERROR
