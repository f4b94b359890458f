"""The SoftHSM token of `keyd dev`, made by the program that knows PKCS#11."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from keyd.cli.development.layout import write_whole
from keyd.errors import BackendUnavailable

_LABEL = "keyd-dev"
_TIMEOUT_S = 60.0


def ensure_token(folder: Path) -> Mapping[str, str]:
    """Make the token unless it is there; returns its module path and RFC 7512 URI.

    Raises: BackendUnavailable (SOFTHSM_UNUSABLE), which names the package that is missing.
    """
    (folder / "tokens").mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(
        folder / "softhsm2.conf",
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
    )
    for name in ("pin", "so-pin"):
        if not (folder / name).exists():
            write_whole(folder / name, secrets.token_hex(8) + "\n")
    command = [sys.executable, "-P", "-m", "keyd.worker.init_token", "--label", _LABEL]
    command += ["--pin-file", str(folder / "pin"), "--so-pin-file", str(folder / "so-pin")]
    environment = {**os.environ, "SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        message = words[-1].removeprefix("init_token: ")
        raise BackendUnavailable("SOFTHSM_UNUSABLE", message)
    # SoftHSM writes to stdout as it likes; our object is the last line.
    made: Mapping[str, str] = json.loads(done.stdout.splitlines()[-1])
    return made
