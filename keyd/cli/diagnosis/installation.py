"""The installation on this host: configuration, files, modules, ledger. Presents no PIN."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keyd.cli.diagnosis.certificates import check_certificate
from keyd.cli.diagnosis.finding import Check, failed, passed, skipped, warned
from keyd.config.checks import unusable_files
from keyd.config.load import load_settings
from keyd.config.problems import ConfigurationError
from keyd.config.settings import Settings, TokenSettings
from keyd.domain.token_uri import parse_token_uri
from keyd.errors import BackendUnavailable, KeydError
from keyd.ledger.verification.verify import verify_ledger

_PROBE_TIMEOUT_S = 30.0
_MAX_FLAWS = 10
_MIN_FREE_BYTES = 100 * 2**20
_LOW_FREE_BYTES = 2**30
_PIN_FLAGS = {
    "USER_PIN_LOCKED": "the PIN is locked",
    "USER_PIN_FINAL_TRY": "one PIN attempt is left",
    "USER_PIN_COUNT_LOW": "a wrong PIN was presented lately, few attempts are left",
}


def look_at_installation(path: Path, overrides: Mapping[str, str]) -> Iterator[Check]:
    """Everything that a configuration names, if this host has one."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        yield skipped("configuration", f"no {path} here; name another with --config")
        return
    except OSError as error:
        told = f"this user cannot look at {path}: {error.strerror}"
        yield failed("configuration", told, "run keyd doctor as the user that keyd runs as")
        return
    try:
        settings = load_settings(path, os.environ, overrides)
    except ConfigurationError as error:
        for finding in error.findings:
            yield failed("configuration", finding.message, f"correct {path}; keyd config check")
        return
    found = unusable_files(settings)
    for finding in found:
        yield failed("configuration", finding.message, "correct it; keyd config check tries again")
    if not found:
        yield passed("configuration", f"{path} and the files it names are usable")
    if tcp := settings.listen.tcp:
        yield check_certificate("server certificate", tcp.certificate)
        yield check_certificate("client authority", tcp.client_ca)
    for token in settings.token:
        yield from _module(token)
    yield from _ledger(settings)


def _module(token: TokenSettings) -> Iterator[Check]:
    """The module's bytes, its version, and the token as it shows itself without a PIN."""
    name = f"module of {token.name}"
    try:
        digest = hashlib.sha256(token.module.read_bytes()).hexdigest()
        found = _probe(token)
    except (OSError, BackendUnavailable) as error:
        yield failed(name, str(error), "install the module, or correct token.module")
        return
    told = f"{token.module}: {found['library']}, Cryptoki {found['cryptoki']}"
    if token.module_sha256 in ("", digest):
        yield passed(name, told if token.module_sha256 else f"{told}; SHA-256 {digest}, not pinned")
    else:
        fix = "update module_sha256 if the module was replaced on purpose"
        yield failed(name, f"{told}; SHA-256 {digest} is not the pinned one", fix)
    if token.sandbox == "off":
        fix = 'try "network" or "unix" with the conformance suite (docs/howto/adding-an-hsm.md)'
        yield warned(f"sandbox of {token.name}", "switched off in token.sandbox", fix)
    yield _token(token, found["tokens"])


def _probe(token: TokenSettings) -> dict[str, Any]:
    """Have the module asked in a process of its own: it may crash or hang."""
    command = [sys.executable, "-P", "-m", "keyd.worker.probe", "--module", str(token.module)]
    command += [f"--parameters={token.module_parameters}", f"--sandbox={token.sandbox}"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **token.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailable("MODULE_HANGS", f"{token.module} does not answer") from error
    except ValueError as error:
        words = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise BackendUnavailable("MODULE_FAILED", words[-1].removeprefix("probe: ")) from error
    return found


def _token(token: TokenSettings, present: list[dict[str, Any]]) -> Check:
    name = f"token {token.name} in its module"
    wanted = parse_token_uri(token.uri)
    matching = [
        one
        for one in present
        if wanted.token in (None, one["label"]) and wanted.serial in (None, one["serial"])
    ]
    if len(matching) != 1:
        labels = ", ".join(f"{one['label']} ({one['serial']})" for one in present) or "none"
        told = f"{len(matching)} tokens match {wanted}; the module shows: {labels}"
        return failed(name, told, "plug it in, or correct token.uri (softhsm-setup makes one)")
    flags = set(matching[0]["flags"])
    for flag, words in _PIN_FLAGS.items():
        if flag in flags:
            return failed(name, words, "find out who tried; log in once with the right PIN")
    if "USER_PIN_INITIALIZED" not in flags:
        return failed(name, "it has no user PIN yet", "have its security officer set one")
    return passed(name, f"{matching[0]['model']}, serial {matching[0]['serial']}, PIN not at risk")


def _ledger(settings: Settings) -> Iterator[Check]:
    try:
        yield from _readable_ledger(settings)
    except (KeydError, OSError) as error:
        yield failed("ledger", str(error), "run this as the user that keyd runs as")


def _readable_ledger(settings: Settings) -> Iterator[Check]:
    """Raises: KeydError, OSError."""
    ledger, anchor = settings.daemon.ledger, settings.daemon.anchor
    if not ledger.exists():
        yield failed("ledger", f"{ledger} is not there", "restore it, or keyd init the first one")
        return
    yield _room(ledger)
    if not settings.daemon.development and _same_disk(ledger, anchor):
        fix = "move the anchor to another disk: a restored disk restores both"
        yield warned("anchor", f"{anchor} lies on the ledger's own disk", fix)
    report = verify_ledger(ledger, anchor=anchor)
    for flaw in report.flaws[:_MAX_FLAWS]:
        yield failed("ledger", str(flaw), "restore the newest backup, then keyd ledger repair")
    if report.sound:
        told = f"{report.log_size} entries and {report.signatures} signatures recomputed"
        yield passed("ledger", told)


def _room(ledger: Path) -> Check:
    free = shutil.disk_usage(ledger).free
    told = f"{free // 2**20} MiB free below {ledger}"
    if free < _MIN_FREE_BYTES:
        return failed("disk", told, "make room: without a record nothing is signed")
    if free < _LOW_FREE_BYTES:
        return warned("disk", told, "make room: without a record nothing is signed")
    return passed("disk", told)


def _same_disk(ledger: Path, anchor: Path) -> bool:
    try:
        return ledger.stat().st_dev == anchor.stat().st_dev
    except OSError:
        return False
