"""A SoftHSM token of its own for each test that asks."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SoftHSMToken:
    """An initialised token; SoftHSM finds it by `env` (``SOFTHSM2_CONF``), never globally."""

    directory: Path
    conf: Path
    env: Mapping[str, str]
    module: Path
    label: str
    serial: str
    uri: str
    pin: str
    pin_file: Path
    so_pin_file: Path


def create_softhsm(directory: Path, label: str) -> SoftHSMToken:
    """Makes the token below `directory` (new, mode 0700) by the program that users run."""
    (directory / "tokens").mkdir(parents=True, mode=0o700)
    directory.chmod(0o700)
    conf = directory / "softhsm2.conf"
    conf.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n"
        "log.level = ERROR\n"
    )
    pin = secrets.token_hex(8)
    pin_file = write_secret(directory / "pin", pin)
    so_pin_file = write_secret(directory / "so-pin", secrets.token_hex(8))
    env = {"SOFTHSM2_CONF": str(conf)}
    command = [sys.executable, "-m", "keyd.worker.init_token", "--label", label]
    command += ["--pin-file", str(pin_file), "--so-pin-file", str(so_pin_file)]
    done = subprocess.run(
        command, env=os.environ | env, stdout=subprocess.PIPE, check=True, timeout=60
    )
    made = json.loads(done.stdout)
    return SoftHSMToken(
        directory=directory,
        conf=conf,
        env=env,
        module=Path(made["module"]),
        label=label,
        serial=made["serial"],
        uri=made["uri"],
        pin=pin,
        pin_file=pin_file,
        so_pin_file=so_pin_file,
    )


def write_secret(path: Path, secret: str) -> Path:
    """Writes `secret` and a line end into a new file of mode 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
    return path
