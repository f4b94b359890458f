"""The only way in: every call of a listening address, known or unknown, passes this gate.

It is the server's single handler for *all* paths, so health, reflection and methods that do not
exist are judged like the rest. It serves each method as one that streams its requests: then a call
has a context before any byte of its request is read, which gives the order authenticate → quota →
authorise → size → decode, and lets the watchdog end a peer that never sends. On the wire a unary
call and a stream of one message are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from keyd.errors import DeadlineExceeded, Exhausted, InvalidRequest
from keyd.rpc import limits, receive
from keyd.rpc.call import Call
from keyd.rpc.drain import Drain
from keyd.rpc.interceptors.errors import answered
from keyd.rpc.interceptors.identity import Identify, authorise_method
from keyd.rpc.interceptors.logging import logged
from keyd.rpc.interceptors.metrics import measured
from keyd.rpc.lanes import Lane, LaneName
from keyd.rpc.method import Method, Terms
from keyd.rpc.options import ServerOptions
from keyd.rpc.quotas import Quotas
from keyd.rpc.watchdog import Watchdog, always
from keyd.services.world import World

Requests = Iterator[bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True)
class Gatekeeping:
    """What a gate consults; `identify` differs between listening addresses, the rest is shared."""

    world: World
    options: ServerOptions
    quotas: Quotas
    drain: Drain
    watchdog: Watchdog
    identify: Identify


@dataclass(frozen=True)
class _Route:
    lane: Lane
    serve: Handler
    refuse: Handler


class Gate(grpc.GenericRpcHandler):
    """Routes a call into its lane and through the layers of `keyd.rpc.interceptors`."""

    def __init__(
        self, methods: Mapping[str, Method], lanes: Mapping[LaneName, Lane], keeping: Gatekeeping
    ) -> None:
        self._lanes = lanes
        self._keeping = keeping
        self._routes = {
            path: _Route(
                lane=lanes[method.terms.lane],
                serve=self._handler(method),
                refuse=self._handler(replace(method, terms=_REFUSING, streams_responses=True)),
            )
            for path, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of any path. Runs in the server's only polling thread: no work here."""
        path = str(handler_call_details.method)
        route = self._routes.get(path)
        if route is None:
            return self._handler(replace(_UNKNOWN, path=path[:100]))
        return route.refuse if route.lane.full else route.serve

    def _handler(self, method: Method) -> Handler:
        lane = self._lanes[method.terms.lane]
        if method.streams_responses:
            behaviour = _in_lane(lane, self._streaming(method))
            return grpc.stream_stream_rpc_method_handler(behaviour)
        return grpc.stream_unary_rpc_method_handler(_in_lane(lane, self._unary(method)))

    def _unary(self, method: Method) -> Callable[[Requests, grpc.ServicerContext], bytes]:
        def serve(requests: Requests, context: grpc.ServicerContext) -> bytes:
            call = self._call(method, context)
            with _layers(call), self._admitted(call):
                request = self._receive(call, requests)
                data = _encode(method.terms.handler(call, request))
                call.check_still_allowed()
                self._let_go(call, len(data))
                return data
            raise AssertionError("a refused call has been aborted")

        return serve

    def _streaming(self, method: Method) -> Callable[[Requests, grpc.ServicerContext], Requests]:
        def serve(requests: Requests, context: grpc.ServicerContext) -> Requests:
            call = self._call(method, context)
            with _layers(call), self._admitted(call):
                read = self._receive_all if method.streams_requests else self._receive
                for message in method.terms.handler(call, read(call, requests)):
                    data = _encode(message)
                    call.check_still_allowed()
                    with self._limit(call, limits.SEND_TIMEOUT_S, "SEND_TIMEOUT"):
                        yield data
                    call.turns.answered()

        return serve

    def _call(self, method: Method, context: grpc.ServicerContext) -> Call:
        options = self._keeping.options
        return Call(
            method=method,
            context=context,
            time_limit_s=options.slow_call_timeout_s
            if method.terms.slow
            else options.call_timeout_s,
            drain=self._keeping.drain,
            authorise=self._authorise,
        )

    @contextmanager
    def _admitted(self, call: Call) -> Iterator[None]:
        """Drain, identity, quota, policy and time, in this order, before anything is received."""
        keeping = self._keeping
        if call.method.terms is _REFUSING and call.method.policy_name:
            raise Exhausted(
                "SERVER_BUSY",
                "as many calls as the daemon serves at once are in flight; try again",
                retry_after_s=limits.RETRY_AFTER_S,
            )
        with ExitStack() as stack:
            # Counted before drain is looked at: a call is either refused by it or waited for.
            stack.enter_context(keeping.drain.call())
            if call.method.terms.lane is not LaneName.HEALTH:
                keeping.drain.check()
            call.caller = keeping.identify(call.context)
            stack.enter_context(keeping.quotas.admit(call.caller.principal, call.method.terms.lane))
            authorise_method(keeping.world, call)
            call.check_time()
            stack.enter_context(self._lanes[call.method.terms.lane].work())
            yield

    def _authorise(self, call: Call) -> None:
        call.caller = self._keeping.identify(call.context)
        authorise_method(self._keeping.world, call)

    def _receive(self, call: Call, requests: Requests) -> Message:
        data = self._next(call, requests)
        if data is None:
            raise InvalidRequest("REQUEST_MISSING", "the call carried no request message")
        self._keeping.quotas.spend_bytes(call.caller.principal, len(data))
        message = receive.decode(call.method, data)
        call.request_id = str(getattr(message, "request_id", ""))[:64]
        call.check_time()
        return message

    def _receive_all(self, call: Call, requests: Requests) -> Iterator[Message]:
        """Messages of a stream; the peer must still be allowed each time one is taken up."""
        while (data := self._next(call, requests)) is not None:
            call.check_continue()
            self._keeping.quotas.spend_bytes(call.caller.principal, len(data))
            yield receive.decode(call.method, data)

    def _next(self, call: Call, requests: Requests) -> bytes | None:
        """The next message, None after the last. Whoever waits for an answer may take its time."""
        owed_since = call.turns.peer_owes_since
        with self._limit(call, limits.RECEIVE_TIMEOUT_S, "RECEIVE_TIMEOUT", owed_since):
            data = next(requests, None)
        if data is not None:
            call.turns.taken_up()
        return data

    def _let_go(self, call: Call, size: int) -> None:
        """Count a unary answer until its peer has taken it in, and cut the call of one that won't.

        gRPC keeps the answer in memory meanwhile, without a thread and without a limit.
        """
        with ExitStack() as stack:
            stack.enter_context(self._keeping.quotas.unread(call.caller.principal, size))
            cut = self._keeping.watchdog.limit(limits.SEND_TIMEOUT_S, call.context.cancel)
            stack.enter_context(cut)
            let_go = stack.pop_all().close
            if not call.context.add_callback(let_go):
                let_go()

    @contextmanager
    def _limit(
        self, call: Call, seconds: float, reason: str, since: Callable[[], float] = always
    ) -> Iterator[None]:
        """Let the watchdog cut the call; the peer sees CANCELLED, the log the reason.

        gRPC tells of a cut in one of three ways, whichever event comes first: the iterator raises,
        it just ends, or the generator that sends is closed.
        """
        with self._keeping.watchdog.limit(seconds, call.context.cancel, since) as watch:
            try:
                yield
            except GeneratorExit:
                call.reason = reason if watch.fired else call.reason
                raise
            except grpc.RpcError:
                if not watch.fired:
                    raise
        if watch.fired:
            raise DeadlineExceeded(
                reason, f"the peer neither sent nor read anything for {seconds:g} s"
            )


@contextmanager
def _layers(call: Call) -> Iterator[None]:
    with measured(call), logged(call), answered(call):
        yield


def _in_lane(lane: Lane, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    behaviour.experimental_thread_pool = lane  # type: ignore[attr-defined]
    return behaviour


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


def _never(call: Call, _request: Message) -> Message:
    raise AssertionError(f"{call.method.path}: the gate lets nobody here")


# A lane of its own for calls that end in a refusal before anything is received.
_REFUSING = Terms(_never, max_bytes=0, lane=LaneName.REFUSE)
_UNKNOWN = Method(
    path="",
    policy_name="",
    terms=_REFUSING,
    request=Empty,
    streams_requests=False,
    streams_responses=True,
    strict=False,
)
