"""One structured event per call. Never requests, payloads, PINs or quotations of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog

from keyd.rpc.call import Call
from keyd.rpc.lanes import LaneName

_log = structlog.get_logger("keyd.rpc")

_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN)


@contextmanager
def logged(call: Call) -> Iterator[None]:
    """Bind the call's id for all that logs below, and report how the call ended."""
    structlog.contextvars.bind_contextvars(call_id=call.call_id)
    try:
        yield
    finally:
        _report(call)


def _report(call: Call) -> None:
    fields: dict[str, object] = {
        "call_id": call.call_id,
        "method": call.method.policy_name or call.method.path,
        "caller": call.caller.principal,
        "request_id": call.request_id,
        "code": call.code.name,
        "reason": call.reason,
        "duration_ms": round(1000 * (time.monotonic() - call.started), 3),
    }
    if not call.caller.principal:
        # Somebody without an identity: the address is all there is.
        fields["peer"] = call.context.peer()
    if call.code is grpc.StatusCode.OK:
        probe = call.method.terms.lane is LaneName.HEALTH
        (_log.debug if probe else _log.info)("call_finished", **fields)
    elif call.code in _FAULTS:
        _log.error("call_failed", **fields)
    else:
        _log.warning("call_refused", **fields)
