"""`keyd dev`: a whole working daemon below one directory, for development and tests."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import click
import structlog

from keyd.cli.development import layout as files
from keyd.cli.development.certificates import make_certificates
from keyd.cli.development.layout import Layout
from keyd.cli.development.token import ensure_token
from keyd.cli.options import examples, set_option
from keyd.cli.output import say
from keyd.config.load import load_settings
from keyd.config.settings import Settings
from keyd.daemon.clock import SystemClock
from keyd.daemon.hardening import harden_process
from keyd.daemon.logs import configure_logs
from keyd.daemon.run import run
from keyd.ledger.create import create_ledger
from keyd_client import profile as profiles
from keyd_client.errors import KeydClientError

_log = structlog.get_logger("keyd.dev")
_ORIGIN = "keyd-dev/log"


@click.command(
    epilog=examples(
        "keyd dev --dir ~/keyd-dev",
        "export KEYD_PROFILE_DIR=~/keyd-dev/profiles   # in another terminal",
        "keyd key list",
    )
)
@click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Everything lies below it, and is found again at the next start.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port; 0: any free one.")
@set_option
def dev(*, folder: Path, port: int, overrides: Mapping[str, str]) -> None:
    """Run a whole working daemon below one directory.

    SoftHSM token, development certificates, policy, ledger, client profiles "dev" and "dev-tls",
    and a TUF repository "demo" whose every signature was made by the daemon. DIR/ready appears
    when it serves. Stop it with Ctrl-C or SIGTERM. Its keys protect nothing.
    """
    layout = files.prepare_directory(folder)
    lock = files.lock_directory(layout)
    try:
        _run(layout, port, overrides)
    finally:
        layout.ready.unlink(missing_ok=True)
        os.close(lock)


def _run(layout: Layout, port: int, overrides: Mapping[str, str]) -> None:
    layout.ready.unlink(missing_ok=True)
    harden_process()
    settings = _prepare(layout, port, overrides)
    configure_logs(settings.log.level, settings.log.format)
    if os.geteuid() == 0:
        _log.warning("running_as_root", hint="fine for development, refused by keyd serve")
    builder = _Builder(layout)
    run(settings, builder)
    builder.finish()


def _prepare(layout: Layout, port: int, overrides: Mapping[str, str]) -> Settings:
    """Make what is missing; everything that exists is used as it is."""
    token = ensure_token(layout.softhsm)
    make_certificates(layout.tls)
    files.write_configuration(layout, token, f"127.0.0.1:{port}")
    settings = load_settings(layout.config, os.environ, overrides)
    if not (layout.ledger / "ledger.db").exists():
        create_ledger(
            layout.ledger,
            origin=_ORIGIN,
            development=True,
            clock=SystemClock(),
            anchor=layout.anchor,
        )
    return settings


class _Builder:
    """Builds the demonstration repository as a client, once the daemon serves."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._failure: KeydClientError | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def ready(self, addresses: tuple[str, ...]) -> None:
        """The daemon serves: build in a thread, which the next start completes if it is cut."""
        tcp_address = addresses[-1]
        threading.Thread(target=self._build, args=(tcp_address,), name="demo", daemon=True).start()

    def stopping(self) -> None:
        """From now on nobody is told that it serves, and no answer is no failure."""
        with self._lock:
            self._stopping = True

    def finish(self) -> None:
        """After the daemon's end. Raises: KeydClientError if the repository could not be built."""
        if self._failure is not None:
            raise self._failure

    def _build(self, tcp_address: str) -> None:
        layout = self._layout
        first = not (layout.repository / "metadata" / "timestamp.json").exists()
        files.write_profiles(layout, tcp_address)
        profile = profiles.load(layout.profiles / "dev.toml")
        # tuf and the signers cost 100 ms, which must not delay the daemon's start.
        from keyd.cli.development.repository import build_repository, key_names  # noqa: PLC0415

        try:
            try:
                build_repository(layout, profile)
            except KeydClientError as error:
                if first:
                    raise
                # Somebody may have gone on with the repository elsewhere; the daemon serves it.
                _log.warning("demo_not_renewed", reason=error.reason, message=error.message)
            keys = key_names(profile)
            with self._lock:
                if self._stopping:
                    return
                files.write_ready(layout, tcp_address, keys)
        except KeydClientError as error:
            with self._lock:
                if not self._stopping:
                    self._failure = error
                    os.kill(os.getpid(), signal.SIGTERM)
            return
        say(f"keyd dev serves {layout.root}; in another terminal:")
        say(f"  export KEYD_PROFILE_DIR={layout.profiles}")
        say("  keyd key list")
