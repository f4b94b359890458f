"""Client profiles: named files saying where a daemon listens and who we are to it.

``<profile>.toml`` is searched in ``$KEYD_PROFILE_DIR``, the user's configuration directory
(``$XDG_CONFIG_HOME/keyd``) and ``/etc/keyd/profiles``; the first file found is the profile.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from keyd_client.errors import ProfileError
from keyd_client.uri import valid_name

SYSTEM_DIRECTORY = Path("/etc/keyd/profiles")
_LONGEST_TIMEOUT_S = 3600.0
_SOCKET_PATH_BYTES = 107  # sun_path of unix(7) holds 108 with the final NUL
_PORT = re.compile("[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class Profile:
    """How to reach one daemon.

    `target` is ``unix:/absolute/path`` or ``dns:host:port``. Over TCP `ca`, `certificate` and
    `key` (PEM files) are required, over a Unix socket forbidden: the socket names its principal.
    `server_name` overrides the name expected in the server's certificate. `repository` is taken
    when a call names none. `timeout_s` is the deadline of a call, seconds.
    """

    target: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    repository: str = ""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= _LONGEST_TIMEOUT_S:
            raise _wrong(f"timeout_s must be above 0 and at most {_LONGEST_TIMEOUT_S:.0f}")
        if self.repository and not valid_name(self.repository):
            raise _wrong(f"repository {self.repository!r} is no repository name")
        if self.target.startswith("unix:"):
            self._check_unix()
        elif self.target.startswith("dns:"):
            self._check_dns()
        else:
            raise _wrong(f"target {self.target!r} is neither unix:/path nor dns:host:port")

    def _check_unix(self) -> None:
        if not self.target.startswith("unix:/"):
            raise _wrong(f"target {self.target!r} needs an absolute path: unix:/run/keyd/keyd.sock")
        if len(os.fsencode(self.target.removeprefix("unix:"))) > _SOCKET_PATH_BYTES:
            raise _wrong(
                f"target {self.target!r} is longer than a socket's path may be (107 bytes)"
            )
        if self.credential_files or self.server_name:
            raise _wrong("ca, certificate, key and server_name belong to dns: targets only")

    def _check_dns(self) -> None:
        host, _, port = self.target.removeprefix("dns:").rpartition(":")
        if not host or not _PORT.fullmatch(port) or int(port) >= 2**16:
            raise _wrong(f"target {self.target!r} is not dns:host:port")
        if len(self.credential_files) != 3:
            raise _wrong("a dns: target needs ca, certificate and key (mutual TLS)")

    @property
    def credential_files(self) -> tuple[Path, ...]:
        """The PEM files of this profile; none for Unix sockets."""
        return tuple(path for path in (self.ca, self.certificate, self.key) if path is not None)


@dataclass(frozen=True)
class Credentials:
    """Contents of the credential files, PEM."""

    ca: bytes
    certificate: bytes
    key: bytes


def directories() -> tuple[Path, ...]:
    """Where profiles are searched, first match first."""
    return _directories(*_environment())


def find(name: str) -> Path:
    """The file of the profile `name`. Raises: ProfileError."""
    searched = _places(name, *_environment())
    for path in searched:
        # Another user's directory, as after a plain su, is as good as none: isfile never raises.
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file does
            return path
    raise ProfileError(
        "PROFILE_NOT_FOUND",
        f"no {name}.toml in {', '.join(str(path.parent) for path in searched)}; create it or set "
        "KEYD_PROFILE_DIR",
    )


def _environment() -> tuple[str | None, str | None, str | None]:
    environment = os.environ
    return (
        environment.get("KEYD_PROFILE_DIR"),
        environment.get("XDG_CONFIG_HOME"),
        environment.get("HOME"),
    )


@lru_cache(maxsize=64)
def _places(name: str, *environment: str | None) -> tuple[Path, ...]:
    """Wanted before every call: worked out once for what the environment says."""
    if not valid_name(name):
        raise ProfileError("PROFILE_NAME_INVALID", f"{name!r} is no profile name")
    return tuple(directory / f"{name}.toml" for directory in _directories(*environment))


def _directories(own: str | None, *_user: str | None) -> tuple[Path, ...]:
    import platformdirs  # noqa: PLC0415 - keeps `import keyd_client` cheap

    user = platformdirs.user_config_path("keyd")
    return (Path(own), user, SYSTEM_DIRECTORY) if own else (user, SYSTEM_DIRECTORY)


def load(path: Path) -> Profile:
    """Read a profile file; relative paths in it start at its directory. Raises: ProfileError."""
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise ProfileError("PROFILE_WRITABLE", f"anybody may write {path}: chmod o-w it")
        content = tomllib.loads(path.read_text("utf-8"))
        return Profile(**_fields(content, path.parent))
    # Encoding, grammar and numbers of thousands of digits are all ValueErrors.
    except (OSError, ValueError, RecursionError) as error:
        raise ProfileError("PROFILE_UNREADABLE", f"cannot read {path}: {error}") from error
    except ProfileError as error:
        if error.reason != "PROFILE_INVALID":
            raise
        raise ProfileError("PROFILE_INVALID", f"{path}: {error.message}") from None


_TEXT = frozenset({"target", "server_name", "repository"})
_PATHS = frozenset({"ca", "certificate", "key"})


def _fields(content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    known = _TEXT | _PATHS | {"timeout_s"}
    if unknown := sorted(set(content) - known):
        raise _wrong(f"unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if "target" not in content:
        raise _wrong('target is missing, e.g. target = "unix:/run/keyd/keyd.sock"')
    fields: dict[str, Any] = {}
    for name, value in content.items():
        if name == "timeout_s":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _wrong("timeout_s must be a number of seconds")
            fields[name] = value
        elif not isinstance(value, str) or not value or not value.isprintable():
            raise _wrong(f"{name} must be a text that is printable and not empty")
        else:
            fields[name] = _path(name, value, base) if name in _PATHS else value
    return fields


def _path(name: str, value: str, base: Path) -> Path:
    try:
        return base / Path(value).expanduser()
    except RuntimeError as error:
        raise _wrong(f"{name} names the home of somebody unknown here: {value!r}") from error


def _wrong(message: str) -> ProfileError:
    return ProfileError("PROFILE_INVALID", message)


def read_credentials(profile: Profile) -> Credentials | None:
    """Read the PEM files; None for Unix sockets. Raises: ProfileError (missing, or key exposed)."""
    if profile.ca is None or profile.certificate is None or profile.key is None:
        return None
    try:
        _check_private(profile.key)
        read = Credentials(
            profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
        )
        _check_match(read, profile)
        return read
    except OSError as error:
        raise ProfileError(
            "CREDENTIAL_UNREADABLE", f"cannot read {error.filename}: {error.strerror}"
        ) from error


def _check_private(key: Path) -> None:
    """Others must not read the key; root may share its own with a group (systemd credentials)."""
    status = key.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise ProfileError("KEY_FILE_EXPOSED", f"{key} belongs to another user: make a copy")
    root_shares = stat.S_IRGRP if status.st_uid == 0 else 0
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~root_shares:
        raise ProfileError("KEY_FILE_EXPOSED", f"others may use {key}: chmod 600 it")


def _check_match(read: Credentials, profile: Profile) -> None:
    """Say now what a failed handshake would not: gRPC reports every TLS trouble alike."""
    from cryptography import x509  # noqa: PLC0415 - keeps `import keyd_client` cheap
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        x509.load_pem_x509_certificates(read.ca)
        certificate = x509.load_pem_x509_certificates(read.certificate)[0]
        key = load_pem_private_key(read.key, None)
        is_pair = key.public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProfileError(
            "CREDENTIAL_INVALID",
            f"{profile.ca}, {profile.certificate} and {profile.key} must be PEM files, the key "
            f"without passphrase: {error}",
        ) from error
    if not is_pair:
        raise ProfileError(
            "CREDENTIAL_INVALID", f"{profile.key} is not the key of {profile.certificate}"
        )
