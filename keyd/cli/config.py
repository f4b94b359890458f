"""`keyd config`: the configuration file, without a running daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from keyd.cli.options import config_option, examples, json_option, set_option
from keyd.cli.output import emit
from keyd.config.checks import unusable_files
from keyd.config.load import load_settings
from keyd.config.problems import ConfigurationError
from keyd.daemon.assemble import check_certificates


@click.group()
def config() -> None:
    """Validate the configuration offline."""


@config.command(epilog=examples("keyd config check", "keyd config check --config ./keyd.toml"))
@config_option
@set_option
@json_option
def check(*, config_path: Path, overrides: Mapping[str, str], as_json: bool) -> None:
    """Say everything that is wrong with the configuration and the files that it names.

    Opens no token and changes nothing. Exits with 78 if anything must be corrected.
    """
    settings = load_settings(config_path, os.environ, overrides)
    if findings := unusable_files(settings):
        raise ConfigurationError(config_path, findings)
    check_certificates(settings)
    emit(as_json, {"ok": True, "file": str(config_path)}, f"{config_path}: ok")
