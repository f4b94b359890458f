"""`keyd serve`: the daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from keyd.cli.options import config_option, examples, set_option
from keyd.config.load import load_settings
from keyd.daemon.hardening import harden_process, refuse_foreign_code, refuse_root
from keyd.daemon.logs import configure_logs
from keyd.daemon.run import run


@click.command(
    epilog=examples(
        "keyd serve",
        "keyd serve --config ./keyd.toml --set log.level=debug",
        "systemctl reload keyd   # certificates and policy",
    )
)
@config_option
@set_option
@click.option("--allow-root", is_flag=True, help="Run although this is uid 0.")
@click.option(
    "--allow-foreign-code",
    is_flag=True,
    help="Run although variables like LD_PRELOAD may load other code.",
)
def serve(
    *,
    config_path: Path,
    overrides: Mapping[str, str],
    allow_root: bool,
    allow_foreign_code: bool,
) -> None:
    """Run the daemon.

    It stays in the foreground, logs to stderr, tells systemd when it is ready, reads certificates
    and policy again on SIGHUP, and finishes the calls in flight on SIGTERM.
    """
    refuse_root(allow_root)
    harden_process()
    settings = load_settings(config_path, os.environ, overrides)
    refuse_foreign_code(allow_foreign_code or settings.daemon.development)
    configure_logs(settings.log.level, settings.log.format)
    run(settings)
