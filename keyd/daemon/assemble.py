"""The composition root: settings become a ledger, tokens, a world and servers."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.backends.config import TokenConfig
from keyd.config.problems import ConfigurationError, problem
from keyd.config.settings import Settings, TokenSettings
from keyd.domain.records import LedgerIdentity
from keyd.rpc.options import Listener, Quota, ServerOptions, TcpListener, UnixListener
from keyd.rpc.tls import ServerTLS


def listeners(settings: Settings) -> Sequence[Listener]:
    """Every address to serve, in the order of the configuration, TCP last."""
    found: list[Listener] = [
        UnixListener(
            path=unix.path,
            principal=unix.principal,
            administrator=unix.administrator,
            group=unix.group,
        )
        for unix in settings.listen.unix
    ]
    if tcp := settings.listen.tcp:
        found.append(TcpListener(tcp.address, tcp.certificate, tcp.key, tcp.client_ca, tcp.revoked))
    return found


def check_certificates(settings: Settings) -> None:
    """Read the TLS files as the daemon will. Raises: CannotListen (TLS_FILES)."""
    for listener in listeners(settings):
        if isinstance(listener, TcpListener):
            ServerTLS(listener)


def server_options(settings: Settings) -> ServerOptions:
    """The limits of every address."""
    limits = settings.limits
    return ServerOptions(
        reflection=settings.daemon.reflection,
        quota=Quota(
            calls_in_flight=limits.calls_in_flight,
            calls_per_s=limits.calls_per_s,
            bytes_per_s=limits.bytes_per_s,
        ),
        call_timeout_s=limits.call_timeout_s,
        slow_call_timeout_s=limits.slow_call_timeout_s,
        work_threads=limits.work_threads,
    )


def token_configs(settings: Settings) -> Sequence[TokenConfig]:
    """How every token is reached."""
    return [_token_config(token, settings.daemon.development) for token in settings.token]


def _token_config(token: TokenSettings, development: bool) -> TokenConfig:
    return TokenConfig(
        name=token.name,
        module=token.module,
        uri=token.uri,
        pin_source=token.pin_source,
        sessions=token.sessions,
        environment=token.environment,
        module_sha256=token.module_sha256,
        module_parameters=token.module_parameters,
        waive_local=token.waive_local,
        sandbox=token.sandbox,
        development=development,
        sign_timeout_s=token.sign_timeout_s,
        generate_timeout_s=token.generate_timeout_s,
        open_timeout_s=token.open_timeout_s,
    )


def check_kind(settings: Settings, identity: LedgerIdentity) -> None:
    """A ledger is for development for ever, or never. Raises: ConfigurationError (LEDGER_KIND)."""
    if identity.development != settings.daemon.development:
        kind = "a development" if identity.development else "a production"
        words = (
            f"{settings.daemon.ledger} is {kind} ledger for ever, but daemon.development is "
            f"{str(settings.daemon.development).lower()}; correct one of the two settings"
        )
        found = problem("LEDGER_KIND", "/daemon/development", words)
        raise ConfigurationError("the configuration", [found])
