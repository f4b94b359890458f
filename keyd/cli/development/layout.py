"""Where everything of `keyd dev` lies, and the files that describe it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from keyd.cli.development.certificates import CLIENT_URI
from keyd.config.settings import SOCKET_PATH_BYTES
from keyd.domain.methods import METHODS
from keyd.errors import BackendUnavailable

TOKEN = "softhsm"
PRINCIPAL = "developer"
REPOSITORY = "demo"
_GENERATED = "# Written by keyd dev at every start; edits are lost.\n"


@dataclass(frozen=True)
class Layout:
    """Paths below the directory of one `keyd dev`; `root` is absolute and resolved."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "keyd.toml"

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def softhsm(self) -> Path:
        return self.root / "softhsm"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def anchor(self) -> Path:
        return self.root / "anchor"

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def ready(self) -> Path:
        return self.root / "ready"

    @property
    def socket(self) -> Path:
        """In `root`, or below the temporary directory when the path would be too long for one."""
        near = self.root / "run" / "keyd.sock"
        if len(bytes(near)) <= SOCKET_PATH_BYTES:
            return near
        short = hashlib.sha256(bytes(self.root)).hexdigest()[:16]
        return Path(tempfile.gettempdir()).resolve() / f"keyd-{os.geteuid()}-{short}" / "keyd.sock"


def prepare_directory(folder: Path) -> Layout:
    """Make the directory with mode 0700. Raises: click.UsageError when it will not do."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = folder.resolve(strict=True)
        if root.stat().st_uid == os.geteuid():
            root.chmod(0o700)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be used: {error.strerror}") from error
    if any(character.isspace() or character in "\"'\\" for character in str(root)):
        raise click.UsageError(
            f"{root}: SoftHSM cannot read directory names with blanks or quotes; choose another"
        )
    return Layout(root)


def lock_directory(layout: Layout) -> int:
    """Own the directory until the process ends; returns the descriptor that holds it.

    Raises: BackendUnavailable (DIRECTORY_IN_USE).
    """
    descriptor = os.open(layout.root / "dev.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BackendUnavailable(
            "DIRECTORY_IN_USE", f"another keyd dev runs on {layout.root}; stop that one first"
        ) from error
    return descriptor


def write_whole(path: Path, content: str) -> None:
    """Replace a file at once: readers find all of it or nothing."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    Path(temporary).replace(path)


def write_configuration(layout: Layout, token: Mapping[str, str], tcp_address: str) -> None:
    """Write keyd.toml, and policy.toml unless it is there: that one is the developer's."""
    text = f"""{_GENERATED}
[daemon]
ledger = "{layout.ledger}"
anchor = "{layout.anchor}"
development = true
reflection = true

[policy]
file = "{layout.policy}"

[[listen.unix]]
path = "{layout.socket}"
principal = "{PRINCIPAL}"
administrator = true

[listen.tcp]
address = "{tcp_address}"
certificate = "{layout.tls}/server.pem"
key = "{layout.tls}/server.key"
client_ca = "{layout.tls}/ca.pem"

[[token]]
name = "{TOKEN}"
module = "{token["module"]}"
uri = "{token["uri"]}"
pin_source = "file:{layout.softhsm}/pin"
environment = {{ SOFTHSM2_CONF = "{layout.softhsm}/softhsm2.conf" }}

[audit]
log_token = "{TOKEN}"
"""
    write_whole(layout.config, text)
    if not layout.policy.exists():
        write_whole(layout.policy, _policy())


def _policy() -> str:
    """Everything for the developer: on the socket, and with the certificate from `tls`."""
    methods = "".join(f'    "{method}",\n' for method in METHODS)
    return f"""# Who may do what (docs/reference/policy.md). Made once; edit it and send SIGHUP.

[[grant]]
name = "developer"
principals = ["unix:{PRINCIPAL}", "uri:{CLIENT_URI}"]
methods = [
{methods}]
any_repository = true
any_role = true
any_key = true
any_token = true
"""


def write_profiles(layout: Layout, tcp_address: str) -> None:
    """Write the client profiles `dev` (Unix socket) and `dev-tls` (mutual TLS)."""
    layout.profiles.mkdir(mode=0o700, exist_ok=True)
    write_whole(
        layout.profiles / "dev.toml",
        f'{_GENERATED}target = "unix:{layout.socket}"\nrepository = "{REPOSITORY}"\n',
    )
    write_whole(
        layout.profiles / "dev-tls.toml",
        f'{_GENERATED}target = "dns:{tcp_address}"\nrepository = "{REPOSITORY}"\n'
        f'ca = "{layout.tls}/ca.pem"\n'
        f'certificate = "{layout.tls}/client.pem"\nkey = "{layout.tls}/client.key"\n',
    )


def write_ready(layout: Layout, tcp_address: str, keys: list[str]) -> None:
    """Say that everything serves, for whoever waits for the file."""
    document = {
        "version": 1,
        "pid": os.getpid(),
        "profile_directory": str(layout.profiles),
        "profiles": ["dev", "dev-tls"],
        "socket": str(layout.socket),
        "tcp_address": tcp_address,
        "tokens": [TOKEN],
        "keys": keys,
        "repository": REPOSITORY,
        "repository_directory": str(layout.repository),
        "config": str(layout.config),
    }
    write_whole(layout.ready, json.dumps(document, indent=2) + "\n")
