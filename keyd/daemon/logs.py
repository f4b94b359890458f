"""The daemon's log on standard error: JSON for machines, columns for a terminal.

Never payloads, PINs or whole requests. What must not be lost is in the audit log, not here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import Processor

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,
)


def configure_logs(level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send our log and that of every library to standard error, one line for each event."""
    number = logging.getLevelNamesMapping()[level.upper()]
    stream = cast("TextIO", _Lenient())
    renderer = _renderer(style, stream.isatty())
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries speak only of what went wrong; their debugging output could hold requests.
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _renderer(style: str, terminal: bool) -> Processor:
    if style == "console" or (style == "auto" and terminal):
        colours = terminal and not os.environ.get("NO_COLOR")
        return structlog.dev.ConsoleRenderer(colors=colours)
    return structlog.processors.JSONRenderer(sort_keys=True)


class _Lenient(io.TextIOBase):
    """Standard error whose reader may go away: the log is then lost, the daemon is not."""

    def write(self, text: str) -> int:
        """As sys.stderr.write."""
        # Python sets sys.stderr to None when it was started without descriptor 2.
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """As sys.stderr.flush."""
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        """As sys.stderr.isatty."""
        with contextlib.suppress(AttributeError):
            return sys.stderr.isatty()
        return False
