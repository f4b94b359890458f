"""`keyd init`: a first configuration, and the ledger it names. Never overwrites anything."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from keyd.cli import skeleton
from keyd.cli.options import CONFIG_PATH, examples, json_option
from keyd.cli.output import emit, say
from keyd.config.load import load_settings
from keyd.daemon.clock import SystemClock
from keyd.ledger.create import create_ledger

_STATE = Path("/var/lib/keyd")
_RUN = Path("/run/keyd")


@click.command(
    epilog=examples(
        "keyd init --dir ~/keyd",
        "sudo keyd init --config-only",
        "sudo -u keyd keyd init --origin keyd.example.com/log",
    )
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put everything below this directory; default: /etc/keyd, /var/lib/keyd and /run/keyd.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Configuration file to write or, if it exists, to follow.  [default: {CONFIG_PATH}]",
)
@click.option("--config-only", is_flag=True, help="Write the files, but create no ledger.")
@click.option("--origin", default="", help="Name of the audit log; default: HOSTNAME/keyd.")
@json_option
def init(
    *,
    folder: Path | None,
    config_path: Path | None,
    config_only: bool,
    origin: str,
    as_json: bool,
) -> None:
    """Write a configuration and create the ledger.

    Files that exist stay as they are, and a ledger that exists is never touched: the second run
    says so and exits with 1.
    """
    if folder is not None and config_path is not None:
        raise click.UsageError("give --dir or --config, not both")
    base = folder.resolve() if folder else None
    path = base / "keyd.toml" if base else (config_path or CONFIG_PATH).resolve()
    written = _write_files(path, base)
    data: dict[str, object] = {"config": str(path), "written": written}
    words = f"configuration: {path}"
    if not config_only:
        settings = load_settings(path, os.environ, {})
        for directory in (settings.daemon.ledger, settings.daemon.anchor):
            _make_directory(directory.parent, 0o700)
        identity = create_ledger(
            settings.daemon.ledger,
            origin=origin or f"{socket.gethostname()}/keyd",
            development=settings.daemon.development,
            clock=SystemClock(),
            anchor=settings.daemon.anchor,
        )
        data |= {
            "ledger": str(settings.daemon.ledger),
            "anchor": str(settings.daemon.anchor),
            "ledger_id": identity.ledger_id,
            "origin": identity.origin,
        }
        words += f"\nledger: {settings.daemon.ledger} ({identity.origin})"
        words += f"\nanchor: {settings.daemon.anchor}"
    emit(as_json, data, words)
    option = "" if path == CONFIG_PATH else f" --config {path}"
    say(
        f"next: add a [[token]] to the configuration, then keyd config check{option} and "
        f"keyd serve{option}"
    )


def _write_files(path: Path, base: Path | None) -> list[str]:
    """Write the configuration and its policy unless the configuration is there."""
    if path.exists():
        say(f"{path} exists and stays as it is")
        return []
    config = path.parent
    _make_directory(config, 0o755)
    if base is not None:
        (base / "run").mkdir(mode=0o700, exist_ok=True)
    files = {
        config / "policy.toml": skeleton.policy(),
        path: skeleton.configuration(
            config=config, state=base or _STATE, run=base / "run" if base else _RUN
        ),
    }
    return [str(name) for name, text in files.items() if _write_new(name, text)]


def _write_new(path: Path, text: str) -> bool:
    """Write a file that is not there yet. It holds no secret: keyd's user must read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        say(f"{path} exists and stays as it is")
        return False
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # Whatever the umask of who installs it.
        os.fchmod(descriptor, 0o644)
        file.write(text)
    return True


def _make_directory(path: Path, mode: int) -> None:
    """Of just this mode if it was not there."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(mode)
    except OSError as error:
        raise click.UsageError(f"cannot make {path}: {error.strerror}") from error
