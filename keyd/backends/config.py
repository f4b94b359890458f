"""How one token is reached: module, address, PIN source, patience; and whether that is safe."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keyd import trusted_paths
from keyd.domain.token_uri import TokenUri, parse_token_uri
from keyd.errors import InvalidRequest

_SPYING_VARIABLES = ("PKCS11SPY", "P11_KIT_DEBUG")
_SPYING_MODULE = "pkcs11-spy"
# Whatever the file is called: the name of the variable that pkcs11-spy asks for its module.
_SPYING_TEXT = b"PKCS11SPY\0"
# ld.so(8): each makes the worker load more than its module. The worker inherits no others.
_LOADING_VARIABLES = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH")
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class TokenConfig:
    """One token.

    `pin_source` is "credential:NAME" (a file of $CREDENTIALS_DIRECTORY), "file:/absolute/path" or
    "prompt": only an operator unlocks. `sessions` 0 leaves the number of session threads to the
    worker. `environment` is all that the worker inherits besides PATH and the language.
    `module_sha256` (hex) pins the module's bytes. `module_parameters`, never a secret, is handed to
    the module by C_Initialize. `waive_local` accepts keys whose CKA_LOCAL is not true. `sandbox` is
    how much the module may reach: "files", "unix" (sockets of this host), "network", or "off" for
    no filter. Times are seconds; `sign_timeout_s` and its siblings bound one operation, after which
    the worker is killed and replaced.
    """

    name: str
    module: Path
    uri: str
    pin_source: str = "prompt"
    sessions: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    module_sha256: str = ""
    module_parameters: str = ""
    waive_local: bool = False
    sandbox: str = "unix"
    development: bool = False
    sign_timeout_s: float = 2.0
    generate_timeout_s: float = 120.0
    open_timeout_s: float = 10.0
    probe_interval_s: float = 1.0
    canary_interval_s: float = 15.0
    inventory_interval_s: float = 60.0
    queue_requests: int = 4096
    queue_bytes: int = 64 * 1024 * 1024


def check_config(config: TokenConfig) -> TokenUri:
    """The parsed address of a configuration that may be used as far as files tell.

    Raises: InvalidRequest with TOKEN_URI_…, TOKEN_PIN_SOURCE, TOKEN_SESSIONS, TOKEN_MODULE_SPIES,
    TOKEN_MODULE_UNSAFE or TOKEN_MODULE_HASH.
    """
    uri = parse_token_uri(config.uri)
    _check_pin_source(config, uri)
    if not 0 <= config.sessions <= 64:
        raise InvalidRequest("TOKEN_SESSIONS", "sessions is 0 (automatic) to 64")
    check_module(config)
    return uri


def check_module(config: TokenConfig) -> None:
    """Refuse a module that others could replace or that logs PINs; checked at every start.

    Raises: InvalidRequest, as `check_config`.
    """
    _check_spies(config)
    if not config.module.is_absolute():
        raise InvalidRequest("TOKEN_MODULE_UNSAFE", f"{config.module} is not an absolute path")
    if why := trusted_paths.file_objection(config.module):
        raise InvalidRequest("TOKEN_MODULE_UNSAFE", f"the PKCS#11 module of {config.name}: {why}")
    data = config.module.read_bytes()
    if _SPYING_TEXT in data and not config.development:
        raise _spying(config.module)
    if config.module_sha256:
        found = hashlib.sha256(data).hexdigest()
        if found != config.module_sha256.lower():
            raise InvalidRequest(
                "TOKEN_MODULE_HASH",
                f"{config.module} has the SHA-256 {found}; update module_sha256 if that is meant",
            )


def credential_file(config: TokenConfig, environment: Mapping[str, str]) -> str | None:
    """Where the worker shall read the PIN, None if only an operator unlocks.

    Raises: InvalidRequest (TOKEN_PIN_SOURCE) for a credential without $CREDENTIALS_DIRECTORY, and
    for a file that others could replace. The worker judges the file itself.
    """
    kind, _, rest = config.pin_source.partition(":")
    if kind == "credential":
        directory = environment.get("CREDENTIALS_DIRECTORY", "")
        if not directory.startswith("/"):
            raise InvalidRequest(
                "TOKEN_PIN_SOURCE",
                "no $CREDENTIALS_DIRECTORY: start keyd by systemd with LoadCredential=, or use "
                "file:/absolute/path",
            )
        return f"{directory}/{rest}"
    path = rest if kind == "file" else parse_token_uri(config.uri).pin_source
    if path and (why := trusted_paths.objection(Path(path).parent)):
        raise InvalidRequest("TOKEN_PIN_SOURCE", f"the PIN file of {config.name}: {why}")
    return path or None


def _check_pin_source(config: TokenConfig, uri: TokenUri) -> None:
    kind, _, rest = config.pin_source.partition(":")
    good = (
        config.pin_source in ("", "prompt")
        or (kind == "file" and rest.startswith("/") and "\0" not in rest)
        or (kind == "credential" and _CREDENTIAL_NAME.fullmatch(rest) and rest not in (".", ".."))
    )
    if not good:
        raise InvalidRequest(
            "TOKEN_PIN_SOURCE",
            f"pin_source of token {config.name} is prompt, file:/absolute/path or credential:NAME",
        )
    if uri.pin_source and config.pin_source not in ("", "prompt"):
        raise InvalidRequest(
            "TOKEN_PIN_SOURCE", f"token {config.name} has both pin_source and pin-source; keep one"
        )


def _check_spies(config: TokenConfig) -> None:
    if config.development:
        return
    if _SPYING_MODULE in config.module.name or _SPYING_MODULE in os.path.realpath(config.module):
        raise _spying(config.module)
    for name in _LOADING_VARIABLES:
        if name in config.environment:
            raise InvalidRequest(
                "TOKEN_MODULE_SPIES",
                f"the variable {name} loads other code beside the module, which sees the PIN; "
                f"take it out of the environment of token {config.name}",
            )
    for name in _SPYING_VARIABLES:
        if name in config.environment or name in os.environ:
            raise InvalidRequest(
                "TOKEN_MODULE_SPIES", f"the variable {name} makes modules log PINs; unset it"
            )


def _spying(module: Path) -> InvalidRequest:
    return InvalidRequest("TOKEN_MODULE_SPIES", f"{module} writes PINs to its log")
