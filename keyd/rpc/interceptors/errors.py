"""Turns whatever a handler raises into one gRPC status with details."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog
from google.rpc.status_pb2 import Status

from keyd.errors import KeydError
from keyd.rpc.call import Call
from keyd.rpc.status import code_of, internal_status, status_of

_log = structlog.get_logger("keyd.rpc")

# Where gRPC libraries of all languages look for a google.rpc.Status.
_DETAILS_KEY = "grpc-status-details-bin"
_CHAIN_MAX = 8


@contextmanager
def answered(call: Call) -> Iterator[None]:
    """End the call with the status of what is raised inside; let cancellation pass."""
    try:
        yield
    except KeydError as error:
        call.code, call.reason = code_of(error), error.reason
        _let_go(error)
        _abort(call, status_of(error, call.call_id))
    except (grpc.RpcError, GeneratorExit):
        # The peer went away, or the watchdog sent it away: there is nobody to answer.
        call.code = grpc.StatusCode.CANCELLED
        raise
    except Exception as error:  # noqa: BLE001 - the outermost edge: nothing may leave unmapped
        call.code, call.reason = grpc.StatusCode.INTERNAL, "INTERNAL"
        _log.error("call_crashed", call_id=call.call_id, **_without_payload(error))
        _let_go(error)
        _abort(call, internal_status(call.call_id))


def _let_go(error: Exception) -> None:
    """Let the call's frames be freed at once.

    Whoever raises an error that it keeps in a variable ties its frame, and with it the call, into a
    cycle. gRPC counts the call until it is freed, and refuses others on the same connection.
    """
    error.__traceback__ = None


def _without_payload(error: Exception) -> dict[str, object]:
    """Types and lines of code: messages of foreign exceptions may quote what they choked on."""
    kinds: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(kinds) < _CHAIN_MAX:
        kinds.append(f"{type(seen).__module__}.{type(seen).__qualname__}")
        seen = seen.__cause__ or seen.__context__
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"exceptions": kinds, "traceback": places}


def _abort(call: Call, status: Status) -> None:
    call.context.set_trailing_metadata(((_DETAILS_KEY, status.SerializeToString()),))
    call.context.abort(call.code, status.message)
