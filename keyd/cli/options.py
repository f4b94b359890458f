"""Options that many commands share, so that they look and work the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_PATH = Path("/etc/keyd/keyd.toml")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON (docs/reference/cli.md)."
)
config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=CONFIG_PATH,
    envvar="KEYD_CONFIG",
    show_default=True,
    help="Configuration file (KEYD_CONFIG).",
)


def _settings(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> Mapping[str, str]:
    """`--set a.b=c` as a mapping."""
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise click.BadParameter(f"{name!r} is not of the form SECTION.SETTING=VALUE")
    return {name: value for name, _, value in pairs}


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.SETTING=VALUE",
    callback=_settings,
    help="Override a setting, e.g. daemon.ledger=/srv/keyd (repeatable; wins over KEYD_*).",
)


def hexadecimal(_context: click.Context, _parameter: click.Parameter, value: str) -> bytes:
    """Callback of options that take bytes in hexadecimal. Raises: click.BadParameter."""
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise click.BadParameter("is not hexadecimal") from error


def examples(*lines: str) -> str:
    """An epilog that shows how a command is used."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
