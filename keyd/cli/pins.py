"""A PIN's way into a command: typed on a terminal, or one line of a file. Never an argument."""

from __future__ import annotations

import os
from pathlib import Path

import click

# What UnlockToken takes.
_MAX_BYTES = 255


def typed_pin(token: str) -> bytes:
    """Asked for and not shown. Raises: click.UsageError where nobody can be asked."""
    if not os.isatty(0):
        raise click.UsageError("there is no terminal to ask for the PIN: give --pin-fd")
    prompted: str = click.prompt(f"PIN of {token}", hide_input=True, err=True)
    return prompted.encode()


def read_pin(source: Path | int) -> bytes:
    """The line in a file or an open descriptor, without its end. Raises: click.UsageError."""
    try:
        with open(source, "rb", closefd=True) as file:  # noqa: PTH123 - takes a descriptor too
            pin = file.read(_MAX_BYTES + 1).removesuffix(b"\n")
    except OSError as error:
        raise click.UsageError(f"the PIN cannot be read: {error.strerror}") from error
    if not pin or len(pin) > _MAX_BYTES:
        raise click.UsageError("the PIN is empty or too long; nothing was presented")
    return pin
