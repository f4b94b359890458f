"""Every method's own cap, to the byte: what is above it is refused undecoded (H6)."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from keyd.rpc import limits
from keyd.rpc.contract import all_methods
from keyd.rpc.drain import Drain
from keyd.rpc.method import Method
from keyd.rpc.server import ServerOptions
from tests.serving import LIMIT_S, Place, Serving, refused, serve

UNLIMITED = [("grpc.max_send_message_length", -1)]
TOO_LARGE = ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
# No protobuf message: whoever decodes it says so, not that it is too large.
NONSENSE = b"\xff"


@pytest.fixture
def serving(place: Place) -> Iterator[Serving]:
    with serve(place) as running:
        yield running


def answer_to(channel: grpc.Channel, method: Method, size: int) -> tuple[str, str]:
    """Code and reason of the refusal of so many bytes of nonsense."""
    data = NONSENSE * size
    with refused() as refusal:
        match method.streams_requests, method.streams_responses:
            case False, False:
                channel.unary_unary(method.path, bytes, bytes)(data, timeout=LIMIT_S)
            case False, True:
                list(channel.unary_stream(method.path, bytes, bytes)(data, timeout=LIMIT_S))
            case True, False:
                channel.stream_unary(method.path, bytes, bytes)(iter([data]), timeout=LIMIT_S)
            case _:
                list(
                    channel.stream_stream(method.path, bytes, bytes)(iter([data]), timeout=LIMIT_S)
                )
    return refusal.code, refusal.reason


def test_one_byte_beyond_its_cap_is_refused_undecoded_by_every_method(
    place: Place, serving: Serving
) -> None:
    methods = all_methods(place.world, ServerOptions(), Drain()).values()
    assert len(methods) > 30
    channel = serving.local(options=UNLIMITED)
    for method in methods:
        cap = method.terms.max_bytes
        answer = answer_to(channel, method, cap + 1)
        # gRPC itself refuses what no method may receive.
        assert answer == TOO_LARGE or (
            cap == limits.MESSAGE_MAX and answer[0] == "RESOURCE_EXHAUSTED"
        ), (method.path, answer)
        assert answer_to(channel, method, cap) != TOO_LARGE, method.path
