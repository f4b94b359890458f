"""Standard health checking (grpc.health.v1), for the daemon and for each token.

"" is the daemon: SERVING while it takes calls and its ledger allows signing. "keyd.v1.Token/NAME"
is one token: SERVING while it is ONLINE. Nothing here waits for a token. Check and Watch are open
to every identity; List, which names the tokens, needs a grant for Health.List.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from keyd.domain.tokens import TokenState
from keyd.errors import NotFound
from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.drain import Drain
from keyd.rpc.lanes import LaneName
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services.world import World

TOKEN_PREFIX = "keyd.v1.Token/"
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Answers from memory."""

    def __init__(self, world: World, drain: Drain) -> None:
        self._world = world
        self._drain = drain

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(health_pb2.DESCRIPTOR, "Health"),
            {
                "Check": Terms(self.check, lane=LaneName.HEALTH, open_to_all=True),
                "List": Terms(self.list, lane=LaneName.HEALTH),
                "Watch": Terms(self.watch, lane=LaneName.WATCH, open_to_all=True),
            },
        )

    def check(self, _call: Call, request: health_pb2.HealthCheckRequest) -> Message:
        """Raises: NotFound, as the protocol wants it for services it does not know."""
        status = self._statuses().get(request.service)
        if status is None:
            raise NotFound(
                "HEALTH_SERVICE_UNKNOWN",
                f'health knows "" (the daemon) and "{TOKEN_PREFIX}NAME" (a token)',
            )
        return _response(status)

    def list(self, _call: Call, _request: health_pb2.HealthListRequest) -> Message:
        """All statuses at once."""
        answer: Message = health_pb2.HealthListResponse(
            statuses={name: _response(status) for name, status in self._statuses().items()}
        )
        return answer

    def watch(self, call: Call, request: health_pb2.HealthCheckRequest) -> Iterator[Message]:
        """The status now and whenever it changes; the end of the daemon is its last."""
        told: int | None = None
        draining = False
        while call.context.is_active():
            call.authorise(call)
            status = self._statuses().get(request.service, _UNKNOWN)
            if status != told:
                told = status
                yield _response(status)
            if draining:
                return
            draining = call.drain.pause(limits.TICK_S)

    def _statuses(self) -> dict[str, int]:
        tokens = self._world.tokens.all()
        if self._drain.begun:
            return dict.fromkeys(["", *(TOKEN_PREFIX + t.name for t in tokens)], _NOT_SERVING)
        serving = {"": self._world.ledger.refusal() is None} | {
            TOKEN_PREFIX + token.name: token.status().state is TokenState.ONLINE for token in tokens
        }
        return {name: _SERVING if well else _NOT_SERVING for name, well in serving.items()}


def _response(status: int) -> Message:
    response: Message = health_pb2.HealthCheckResponse(status=status)
    return response
