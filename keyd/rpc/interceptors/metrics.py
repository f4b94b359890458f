"""Prometheus metrics of calls and signatures. Labels are bounded: never keys or principals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from keyd.domain.trust import TOP_LEVEL
from keyd.rpc.call import Call

CALLS = Counter(
    "keyd_rpc_calls_total",
    "Finished calls by method (Service.Method) and gRPC code.",
    ["method", "code"],
)
CALL_SECONDS = Histogram(
    "keyd_rpc_call_duration_seconds",
    "Time from a call's thread to its answer; streams count whole.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge("keyd_rpc_calls_in_flight", "Calls that have a thread now, by lane.", ["lane"])
SIGNATURES = Counter(
    "keyd_signatures_total",
    "Signing requests by role (delegated ones as one), token and outcome "
    "(signed, replayed, refused, failed).",
    ["role", "backend", "outcome"],
)
SIGNATURE_SECONDS = Histogram(
    "keyd_signature_duration_seconds",
    "Time of one SignMetadata or SignOpaque in the use case, by outcome.",
    ["outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


@contextmanager
def measured(call: Call) -> Iterator[None]:
    """Count the call, and time it."""
    in_flight = IN_FLIGHT.labels(call.method.terms.lane.value)
    in_flight.inc()
    try:
        yield
    finally:
        in_flight.dec()
        method = call.method.policy_name or "unknown"
        CALLS.labels(method, call.code.name).inc()
        CALL_SECONDS.labels(method).observe(time.monotonic() - call.started)


def count_signature(role: str, token: str, outcome: str) -> None:
    """Count one signing request; `role` may be "opaque", unknown roles and tokens are ""."""
    known = role if role in (*TOP_LEVEL, "opaque", "") else "delegated"
    SIGNATURES.labels(known, token, outcome).inc()
