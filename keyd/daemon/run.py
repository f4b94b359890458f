"""A daemon from its start to its end: open, settle, serve, reload, drain."""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

import structlog

from keyd.backends.tokens import TokenFleet
from keyd.config.policy_file import load_policy
from keyd.config.problems import ConfigurationError, problem
from keyd.config.settings import Settings, split_address
from keyd.daemon import systemd
from keyd.daemon.assemble import check_kind, listeners, server_options, token_configs
from keyd.daemon.clock import SystemClock, check_clock_against_log
from keyd.daemon.clockwork import Clockwork
from keyd.daemon.hardening import loading_variables
from keyd.daemon.metrics_http import WorldMetrics, serve_metrics
from keyd.daemon.policy_source import PolicyInForce, load_and_take, policy_to_start_with
from keyd.daemon.signals import ForcedStop, Signals, Wish
from keyd.daemon.status import describe, settled
from keyd.errors import InvalidRequest, KeydError
from keyd.ledger.opening import open_ledger
from keyd.ledger.token_journal import LedgerTokenJournal
from keyd.rehearsal.stage import StockClients
from keyd.rpc.options import CannotListen
from keyd.rpc.server import RpcServers
from keyd.services.denials import DenialLog
from keyd.services.recovery import Unended, close_open_intents
from keyd.services.world import World

_log = structlog.get_logger("keyd.daemon")
_TICK_S = 1.0
_START_LOOK_S = 0.05
_TOKENS_STOP_S = 5.0


class Observer(Protocol):
    """Who is told of the two turns of a daemon's life, in its main thread."""

    def ready(self, addresses: tuple[str, ...]) -> None:
        """It serves, at these addresses; must return at once."""

    def stopping(self) -> None:
        """It is about to take no more calls."""


@dataclass
class _Daemon:
    """What the main thread works with while the daemon runs."""

    settings: Settings
    world: World
    policy: PolicyInForce
    servers: RpcServers
    signals: Signals
    clockwork: Clockwork
    said: str = field(default="")


def run(settings: Settings, observer: Observer | None = None) -> None:
    """Serve until SIGTERM. Call it in the main thread, after hardening and log set-up.

    Raises: KeydError when the daemon cannot start; whatever was started is stopped again.
    """
    signals = Signals()
    signals.install()
    threading.excepthook = _thread_died
    for name in loading_variables():
        _log.warning("foreign_code_possible", variable=name, hint="unset it; workers never see it")
    with ExitStack() as stack:
        stack.callback(signals.ignore)
        daemon = _start(settings, signals, stack)
        if _wait_for_tokens(daemon):
            daemon.clockwork.start()
            ready = describe(daemon.world.tokens, daemon.world.ledger)
            _log.info("daemon_ready", status=ready)
            systemd.notify("READY=1", f"STATUS={ready}")
            if observer is not None:
                observer.ready(daemon.servers.addresses())
            _serve(daemon)
        if observer is not None:
            observer.stopping()
        _stop(daemon)
    _log.info("daemon_stopped")


def _thread_died(death: threading.ExceptHookArgs) -> None:
    """A fault of ours: the daemon goes on without that thread, but not silently."""
    name = death.thread.name if death.thread else ""
    error = (death.exc_type, death.exc_value or death.exc_type(), death.exc_traceback)
    _log.critical("thread_died", thread=name, exc_info=error)


def _start(settings: Settings, signals: Signals, stack: ExitStack) -> _Daemon:
    """Everything in the order that nothing can be asked before it is known to be sound."""
    load_policy(settings.policy.file)
    clock = SystemClock()
    ledger = open_ledger(settings.daemon.ledger, anchor=settings.daemon.anchor)
    stack.callback(ledger.close)
    check_kind(settings, ledger.read(lambda view: view.identity()))
    check_clock_against_log(clock, ledger)
    if refusal := ledger.refusal():
        _log.critical("ledger_refuses", reason=refusal)
    else:
        _log.info("ledger_open", intents_closed=close_open_intents(ledger, clock))
    policy = PolicyInForce(policy_to_start_with(settings.policy.file, ledger, clock))
    _log.info("policy_in_force", policy=policy.current().revision)
    fleet = _tokens(settings, LedgerTokenJournal(ledger), clock)
    world = World(
        ledger=ledger,
        tokens=fleet,
        clock=clock,
        policy=policy,
        denials=DenialLog(ledger, clock),
        opaque_may_sign_tuf=settings.development.opaque_may_sign_tuf,
        rehearsal=StockClients(),
    )
    stack.callback(_stop_tokens, fleet, signals)
    fleet.start()
    servers = RpcServers(world, listeners(settings), server_options(settings))
    servers.start()
    # If anything below fails, nobody may be left listening.
    stack.callback(_close, servers)
    _start_metrics(settings, world)
    audit = settings.audit
    clockwork = Clockwork(world, audit.log_token, audit.checkpoint_interval_s)
    stack.callback(clockwork.stop)
    return _Daemon(settings, world, policy, servers, signals, clockwork)


def _tokens(settings: Settings, journal: LedgerTokenJournal, clock: SystemClock) -> TokenFleet:
    try:
        return TokenFleet(token_configs(settings), journal, clock)
    except InvalidRequest as error:
        found = problem(error.reason, "/token", error.message)
        raise ConfigurationError("the configuration", [found]) from error


def _start_metrics(settings: Settings, world: World) -> None:
    if not settings.metrics.address:
        return
    host, port = split_address(settings.metrics.address)
    try:
        bound = serve_metrics(host, port, [WorldMetrics(world, version("keyd"))])
    except OSError as error:
        raise CannotListen(
            "ADDRESS_UNUSABLE",
            f"cannot serve metrics on {settings.metrics.address}: {error.strerror}",
        ) from error
    _log.info("metrics_listening", address=f"{host}:{bound}")


def _wait_for_tokens(daemon: _Daemon) -> bool:
    """Wait until no token is about to come up, at most `start_wait_s`; False: asked to stop."""
    until = time.monotonic() + daemon.settings.daemon.start_wait_s
    world = daemon.world
    while not settled(world.tokens, world.ledger) and time.monotonic() < until:
        _say_status(daemon)
        wish = daemon.signals.wait(_START_LOOK_S)
        if wish is Wish.STOP:
            return False
        if wish is Wish.RELOAD:
            _reload(daemon)
    return True


def _serve(daemon: _Daemon) -> None:
    """The main thread's work: wishes, the watchdog, and the status line."""
    unended = Unended(daemon.world.ledger, daemon.world.clock)
    watchdog_s = systemd.watchdog_interval_s()
    tick_s = min(_TICK_S, watchdog_s or _TICK_S)
    while True:
        wish = daemon.signals.wait(tick_s)
        if wish is Wish.STOP:
            return
        if wish is Wish.RELOAD:
            _reload(daemon)
        _say_status(daemon)
        _close_unended(unended)
        if watchdog_s is not None:
            _pet_watchdog(daemon)


def _close_unended(unended: Unended) -> None:
    # A ledger that cannot be written now is looked at again with the next tick.
    with contextlib.suppress(KeydError):
        if closed := unended.close():
            _log.warning("intents_closed", count=closed)


def _pet_watchdog(daemon: _Daemon) -> None:
    """Only if the ledger answers; one that answers with a refusal is not hung, and stays up."""
    with contextlib.suppress(KeydError):
        daemon.world.ledger.read(lambda view: view.log_size())
    systemd.notify("WATCHDOG=1")


def _say_status(daemon: _Daemon) -> None:
    status = describe(daemon.world.tokens, daemon.world.ledger)
    if status != daemon.said:
        daemon.said = status
        systemd.notify(f"STATUS={status}")


def _reload(daemon: _Daemon) -> None:
    """Certificates and policy, all of them or none; what is invalid changes nothing."""
    systemd.notify(*systemd.reloading())
    path = daemon.settings.policy.file
    try:
        use_tls = daemon.servers.read_tls()
        policy, changed = load_and_take(path, daemon.world.ledger, daemon.world.clock)
        use_tls()
        daemon.policy.replace(policy)
    except KeydError as error:
        _log.error("reload_refused", reason=error.reason, message=error.message)
    # A fault of keyd's own is no reason to end a daemon that serves.
    except Exception:  # noqa: BLE001
        _log.exception("reload_refused", reason="INTERNAL")
    else:
        _log.info("reloaded", policy=policy.revision, policy_changed=changed)
    systemd.notify("READY=1")


def _stop_tokens(fleet: TokenFleet, signals: Signals) -> None:
    fleet.stop(0.0 if signals.forced else _TOKENS_STOP_S)


def _close(servers: RpcServers) -> None:
    servers.stop(0.0)


def _stop(daemon: _Daemon) -> None:
    """Drain: no new calls, calls in flight get the grace period, or none after a second signal."""
    systemd.notify("STOPPING=1", "STATUS=finishing calls")
    _log.info("daemon_stopping")
    try:
        finished = _drain(daemon)
    except ForcedStop:
        finished = daemon.servers.stop(0.0)
    if not finished:
        _log.warning("calls_cut", hint="their outcome is recorded; clients may ask again")


def _drain(daemon: _Daemon) -> bool:
    """Whether all calls finished in time. Raises: ForcedStop, and never once it has returned."""
    daemon.servers.begin_drain()
    daemon.signals.impatient = True
    if daemon.signals.wait(0) is Wish.STOP:
        daemon.signals.forced = True
        finished = daemon.servers.stop(0.0)
    else:
        finished = daemon.servers.stop(daemon.settings.daemon.stop_grace_s)
    daemon.signals.impatient = False
    return finished
