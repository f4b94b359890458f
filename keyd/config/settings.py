"""The daemon's configuration as it is written; docs/reference/config.md explains every setting."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from keyd.domain.token_uri import parse_token_uri
from keyd.errors import InvalidRequest

SOCKET_PATH_BYTES = 107  # sun_path of unix(7) holds 108 with the final NUL
_PIN_SOURCE = re.compile(r"prompt|file:/[^\x00\n]+|credential:[A-Za-z0-9._-]{1,64}")


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ValueError("must be an absolute path without '..' and NUL")
    return path


def _socket(path: Path) -> Path:
    length = len(bytes(_absolute(path)))
    if length > SOCKET_PATH_BYTES:
        raise ValueError(
            f"is {length} bytes long, but Linux allows a Unix socket {SOCKET_PATH_BYTES}; "
            "choose a shorter directory such as /run/keyd"
        )
    return path


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8443" or "[::1]:8443". Raises: ValueError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and host.isprintable() and port.isdecimal()) or int(port) > 65535:
        raise ValueError('is not of the form "HOST:PORT"')
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError('needs an IPv6 host in brackets, e.g. "[::1]:8443"')
    return host.strip("[]"), int(port)


def _address(address: str) -> str:
    split_address(address)
    return address


def _loopback(address: str) -> str:
    host, _ = split_address(address)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False  # a name could resolve to anything tomorrow
    if not loopback:
        raise ValueError("metrics have no authentication: use 127.0.0.1 or [::1] and a port")
    return address


def _token_uri(uri: str) -> str:
    try:
        parse_token_uri(uri)
    except InvalidRequest as error:
        raise ValueError(error.message) from error
    return uri


def _pin_source(source: str) -> str:
    if not _PIN_SOURCE.fullmatch(source):
        raise ValueError('must be "prompt", "file:/absolute/path" or "credential:NAME"')
    return source


AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_absolute)]
SocketPath = Annotated[Path, Field(strict=False), AfterValidator(_socket)]
Address = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# What is handed to the operating system cannot hold a NUL.
SystemText = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Section(BaseModel):
    """What all sections have in common: unknown settings and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DaemonSettings(Section):
    """`[daemon]`: where the state lives and how the daemon starts and stops."""

    ledger: AbsolutePath
    anchor: AbsolutePath
    development: bool = False
    reflection: bool = False
    start_wait_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    stop_grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0


class DevelopmentSettings(Section):
    """`[development]`: what only a development ledger may do."""

    opaque_may_sign_tuf: bool = False


class UnixSettings(Section):
    """`[[listen.unix]]`: a socket; who can open it is the principal."""

    path: SocketPath
    principal: Name
    administrator: bool = False
    group: SystemText = ""


class TcpSettings(Section):
    """`[listen.tcp]`: mutual TLS; the principal is the client certificate's URI or DNS SAN."""

    address: Address
    certificate: AbsolutePath
    key: AbsolutePath
    client_ca: AbsolutePath
    revoked: AbsolutePath | None = None


class ListenSettings(Section):
    """`[listen]`: every address the daemon serves."""

    unix: Annotated[tuple[UnixSettings, ...], Field(strict=False)] = ()
    tcp: TcpSettings | None = None


class MetricsSettings(Section):
    """`[metrics]`: the Prometheus endpoint; "" switches it off."""

    address: Annotated[str, AfterValidator(lambda value: value and _loopback(value))] = ""


class TokenSettings(Section):
    """`[[token]]`: one PKCS#11 token and the worker that drives it; sessions 0 is automatic."""

    name: Name
    module: AbsolutePath
    uri: Annotated[str, AfterValidator(_token_uri)]
    pin_source: Annotated[str, AfterValidator(_pin_source)] = "prompt"
    sessions: Annotated[int, Field(ge=0, le=64)] = 2
    module_sha256: Sha256 = ""
    module_parameters: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,1024}$")] = ""
    waive_local: bool = False
    sandbox: Literal["files", "unix", "network", "off"] = "unix"
    sign_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 2.0
    generate_timeout_s: Annotated[float, Field(ge=1, le=3_600)] = 120.0
    open_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], SystemText] = {}


class PolicySettings(Section):
    """`[policy]`: the file that says who may call what."""

    file: AbsolutePath


class AuditSettings(Section):
    """`[audit]`: who signs the log's checkpoints, and how often."""

    log_token: str = ""
    checkpoint_interval_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0


class LimitSettings(Section):
    """`[limits]`: what one principal may use of a listening address, and how long a call may take.

    `slow_call_timeout_s` holds for key generation, adoption, unlocking and batches.
    """

    calls_in_flight: Annotated[int, Field(ge=1, le=1024)] = 32
    calls_per_s: Annotated[float, Field(gt=0, le=1e6)] = 2_000.0
    bytes_per_s: Annotated[float, Field(ge=65_536, le=1e10)] = 33_554_432.0
    call_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    slow_call_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 30.0
    work_threads: Annotated[int, Field(ge=2, le=1024)] = 64


class LogSettings(Section):
    """`[log]`: the words on standard error; the audit log is elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(Section):
    """The whole file."""

    daemon: DaemonSettings
    policy: PolicySettings
    listen: ListenSettings = ListenSettings()
    token: Annotated[tuple[TokenSettings, ...], Field(strict=False)] = ()
    metrics: MetricsSettings = MetricsSettings()
    audit: AuditSettings = AuditSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    development: DevelopmentSettings = DevelopmentSettings()
