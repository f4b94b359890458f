"""The daemon's log on standard error: JSON for machines, columns for a terminal.

Never payloads, PINs or whole requests. What must not be lost is in the audit log, not here.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import Processor

from keyd.daemon.log_queue import LogQueue

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,
)


def configure_logs(level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send our log and that of every library to standard error, one line for each event.

    No call waits for who reads it; the end of the process does, for a second at most.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    # Python sets sys.stderr to None when it was started without descriptor 2.
    lines = LogQueue(sys.stderr)
    atexit.register(lines.drain)
    stream = cast("TextIO", lines)
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
