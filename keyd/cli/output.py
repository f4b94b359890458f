"""What commands print: data on stdout, words on stderr, JSON in a versioned shape on request."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from keyd.errors import KeydError
from keyd_client.errors import KeydClientError

JSON_VERSION = 1
_PATIENCE_S = 1.0


def _echo(text: str, *, err: bool = False) -> None:
    """Colours only on a terminal (click sees to that) and without NO_COLOR (no-color.org)."""
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def emit_json(data: Mapping[str, Any], *, one_line: bool = False) -> None:
    """Print one JSON object with `version`, the number of its shape (docs/reference/cli.md)."""
    document = {"version": JSON_VERSION, **data}
    _echo(json.dumps(document, indent=None if one_line else 2, ensure_ascii=False))


def emit(as_json: bool, data: Mapping[str, Any], text: str) -> None:
    """Print `data` as JSON, or `text` for people."""
    if as_json:
        emit_json(data)
    elif text:
        _echo(text)


def plain(text: str) -> str:
    """Text that a terminal prints and does nothing else with: ASCII, and the "…" of plans."""
    return "".join(
        each if " " <= each <= "~" or each == "…" else each.encode("unicode_escape").decode()
        for each in text
    )


def say(words: str) -> None:
    """A remark on stderr, out of the way of data."""
    _echo(words, err=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows in aligned columns below their headers, as `plain` text; nothing if there are none."""
    if not rows:
        return ""
    cells = [list(headers), *([plain(str(cell)) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])


def facts(pairs: Mapping[str, object]) -> str:
    """Names and `plain` values, one pair to a line; empty values are left out.

    A tuple is several values, one below the other.
    """
    shown = {
        name: [plain(str(each)) for each in (value if isinstance(value, tuple) else (value,))]
        for name, value in pairs.items()
        if value not in ("", None, ())
    }
    width = max((len(name) for name in shown), default=0) + 1
    below = "\n" + " " * (width + 1)
    return "\n".join(
        f"{(name + ':').ljust(width)} {below.join(lines)}" for name, lines in shown.items()
    )


@contextmanager
def progress(words: str) -> Iterator[None]:
    """Show that something is going on if it takes over a second: a spinner, or a line in a log."""
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - costs 50 ms, and only a terminal needs it

        with Console(stderr=True).status(words):
            yield
        return
    timer = threading.Timer(_PATIENCE_S, say, (f"{words} …",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def error_data(error: KeydError | KeydClientError) -> dict[str, Any]:
    """The member `error` of a failed command's JSON."""
    return {
        "reason": error.reason,
        "message": error.message,
        "details": dict(error.details),
        "findings": [
            {
                "rule": finding.rule,
                "reason": finding.reason,
                "pointer": finding.pointer,
                "message": finding.message,
                "details": dict(finding.details),
            }
            for finding in error.findings
        ],
    }


def report(error: KeydError | KeydClientError, as_json: bool) -> None:
    """Tell why a command failed, with every finding, in `plain` text: a daemon may have said it."""
    if as_json:
        emit_json({"error": error_data(error)})
    say(f"{click.style('keyd:', fg='red')} {plain(f'{error.reason}: {error.message}')}")
    for finding in error.findings:
        if finding.message not in error.message:
            say(plain(f"  {finding.reason} at {finding.pointer or '/'}: {finding.message}"))
