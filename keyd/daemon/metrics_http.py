"""Prometheus metrics over HTTP, on this host only: they need no password and name tokens."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyd.backends.token import WorkerToken
from keyd.domain.runway import Runway
from keyd.domain.tokens import TokenState
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import InvalidRequest, KeydError
from keyd.ledger.sqlite import SqliteLedger
from keyd.ports import View
from keyd.services.evidence import trusted
from keyd.services.repositories import expires_of
from keyd.services.runway import runway_of
from keyd.services.world import World

_log = structlog.get_logger("keyd.daemon")


class WorldMetrics(Collector):
    """What is asked of ledger and tokens at the moment of a scrape; no token is touched."""

    def __init__(self, world: World, version: str) -> None:
        self._world = world
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """The metrics of docs/reference/metrics.md that calls do not count by themselves."""
        build = GaugeMetricFamily("keyd_build_info", "Constant 1.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        yield from self._tokens()
        refuses = float(self._world.ledger.refusal() is not None)
        yield GaugeMetricFamily(
            "keyd_ledger_refuses", "1 if the ledger lets nothing be signed.", value=refuses
        )
        try:
            yield from self._ledger()
        except KeydError as error:
            # A ledger that cannot be read must not take the other metrics with it.
            _log.error("metrics_incomplete", reason=error.reason, message=error.message)
        yield from self._exchanges()
        yield from self._groups()

    def _tokens(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("keyd_backend_up", "1 if the token signs.", labels=["token"])
        strays = GaugeMetricFamily(
            "keyd_token_stray_objects", "Unregistered key objects.", labels=["token"]
        )
        for backend in self._world.tokens.all():
            status = backend.status()
            up.add_metric([status.name], float(status.state is TokenState.ONLINE))
            strays.add_metric([status.name], status.strays)
        yield up
        yield strays

    def _ledger(self) -> Iterator[Metric]:
        ledger = self._world.ledger
        size = ledger.read(lambda view: view.log_size())
        yield GaugeMetricFamily("keyd_log_entries", "Entries in the audit log.", value=size)
        latest = ledger.checkpoint()
        covered = latest.size if latest else 0
        yield GaugeMetricFamily(
            "keyd_checkpoint_entries", "Entries under the newest checkpoint.", value=covered
        )
        expiry = GaugeMetricFamily(
            "keyd_metadata_expiry_timestamp_seconds",
            "When the newest accepted version of a top-level role expires.",
            labels=["repository", "role"],
        )
        begin = GaugeMetricFamily(
            "keyd_metadata_renewal_begin_timestamp_seconds",
            "Until when the renewal of a top-level role should have begun.",
            labels=["repository", "role"],
        )
        takes = GaugeMetricFamily(
            "keyd_metadata_renewal_seconds",
            "How long a renewal takes with the people it needs.",
            labels=["repository", "role"],
        )
        for repository, role, runway in ledger.read(_runways):
            expiry.add_metric([repository, role], runway.expires.timestamp())
            begin.add_metric([repository, role], runway.begin_by.timestamp())
            takes.add_metric([repository, role], runway.takes.total_seconds())
        yield from (expiry, begin, takes)

    def _exchanges(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "keyd_token_requests", "Requests to workers.", labels=["token"]
        )
        frames = CounterMetricFamily(
            "keyd_token_frames", "Messages that carried them.", labels=["token"]
        )
        for backend in self._world.tokens.all():
            if isinstance(backend, WorkerToken):
                counted = backend.statistics()
                requests.add_metric([backend.name], counted.requests)
                frames.add_metric([backend.name], counted.frames)
        yield requests
        yield frames

    def _groups(self) -> Iterator[Metric]:
        if isinstance(self._world.ledger, SqliteLedger):
            counted = self._world.ledger.statistics()
            yield CounterMetricFamily(
                "keyd_ledger_transactions", "Pieces of work committed.", value=counted.pieces
            )
            yield CounterMetricFamily(
                "keyd_ledger_groups", "Commits, each with one flush.", value=counted.groups
            )


def _runways(view: View) -> list[tuple[str, str, Runway]]:
    """(repository, role, runway); delegated roles could be thousands and are left out."""
    found = []
    for repository in view.repositories():
        for name in TOP_LEVEL:
            payload = trusted(view, repository.name, name)
            expires = expires_of(payload.signed["expires"]) if payload else None
            if expires is not None:
                found.append((repository.name, name, runway_of(view, repository, name, expires)))
    return found


def serve_metrics(
    address: str, port: int, collectors: Iterable[Collector], registry: CollectorRegistry = REGISTRY
) -> int:
    """Serve the registry's metrics over HTTP in a thread; returns the port.

    Raises: InvalidRequest (METRICS_NOT_LOOPBACK), OSError when the port is taken.
    """
    if not ipaddress.ip_address(address).is_loopback:
        raise InvalidRequest(
            "METRICS_NOT_LOOPBACK", f"metrics are served on loopback only, not on {address}"
        )
    for collector in collectors:
        registry.register(collector)
    server, _ = start_http_server(port, addr=address, registry=registry)
    return int(server.server_port)
