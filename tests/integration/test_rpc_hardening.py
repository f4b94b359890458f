"""Each hardening value by its effect: gRPC ignores option names it does not know."""

from __future__ import annotations

import contextlib
import gc
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, PreconditionFailure
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from keyd.domain.keys import Content
from keyd.errors import BackendUnavailable, Finding, PolicyViolation
from keyd.rpc import limits
from keyd.rpc.server import ServerOptions
from keyd_protos.v1 import (
    keys_pb2,
    keys_pb2_grpc,
    signing_pb2,
    signing_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests import http2
from tests.serving import LIMIT_S, Place, Serving, refused, serve, to_sign
from tests.worlds import Author, make_key

CHANNEL_MAX = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]


@pytest.fixture
def serving(place: Place) -> Iterator[Serving]:
    with serve(place) as running:
        yield running


def list_tokens(channel: grpc.Channel, metadata: Sequence[tuple[str, str]] = ()) -> int:
    call = tokens_pb2_grpc.TokenServiceStub(channel).ListTokens
    answer = call(tokens_pb2.ListTokensRequest(), timeout=LIMIT_S, metadata=tuple(metadata))
    return len(answer.tokens)


def raw(serving: Serving) -> http2.Connection:
    return http2.over_unix(serving.targets[0].removeprefix("unix:"), LIMIT_S)


def altered(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, int]) -> None:
    """The same options with other values, where the real ones take too long for a test."""
    assert set(values) <= {name for name, _ in limits.CHANNEL_OPTIONS}
    options = tuple((name, values.get(name, value)) for name, value in limits.CHANNEL_OPTIONS)
    monkeypatch.setattr(limits, "CHANNEL_OPTIONS", options)


def test_settings_tell_the_limits(serving: Serving) -> None:
    connection = raw(serving)
    settings = connection.first(http2.SETTINGS).settings()
    connection.close()
    assert settings[http2.MAX_CONCURRENT_STREAMS] == 64
    assert settings[http2.MAX_HEADER_LIST_SIZE] == 8 * 1024


def test_each_method_has_its_own_size(serving: Serving) -> None:
    stub = keys_pb2_grpc.KeyServiceStub(serving.local())
    with refused() as refusal:
        stub.GetKey(keys_pb2.GetKeyRequest(name="x" * limits.SMALL_REQUEST_MAX), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    with refused() as refusal:
        stub.GetKey(
            keys_pb2.GetKeyRequest(name="x" * (limits.SMALL_REQUEST_MAX - 8)), timeout=LIMIT_S
        )
    assert refusal.reason == "FIELD_INVALID"


def test_the_largest_payload_fits_and_a_larger_one_does_not(serving: Serving) -> None:
    stub = signing_pb2_grpc.SigningServiceStub(serving.local(options=CHANNEL_MAX))

    def sign(size: int) -> str:
        metadata = signing_pb2.MetadataToSign(key="k", payload=b" " * size)
        with refused() as refusal:
            stub.SignMetadata(signing_pb2.SignMetadataRequest(metadata=metadata), timeout=LIMIT_S)
        return refusal.reason

    assert sign(limits.PAYLOAD_MAX) == "KEY_UNKNOWN"
    assert sign(limits.PAYLOAD_MAX + 1) == "FIELD_INVALID"
    assert sign(limits.METADATA_REQUEST_MAX) == "REQUEST_TOO_LARGE"


def test_no_message_beyond_4_mib_is_received(serving: Serving) -> None:
    channel = serving.local(options=CHANNEL_MAX)
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    item = signing_pb2.MetadataToSign(key="k", payload=b" " * limits.MESSAGE_MAX)
    with refused() as refusal:
        list(
            stub.BatchSignMetadata(
                iter([signing_pb2.BatchSignMetadataRequest(items=[item])]), timeout=LIMIT_S
            )
        )
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "")
    assert "larger than max" in refusal.message
    assert list_tokens(channel) == 1


def test_compressed_messages_are_not_unpacked(serving: Serving) -> None:
    stub = keys_pb2_grpc.KeyServiceStub(serving.local())
    with refused() as refusal:
        stub.GetKey(
            keys_pb2.GetKeyRequest(name="x" * 4000),
            timeout=LIMIT_S,
            compression=grpc.Compression.Gzip,
        )
    assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "")


def test_metadata_size(serving: Serving) -> None:
    channel = serving.local(options=CHANNEL_MAX)
    assert list_tokens(channel, metadata=[("x-some", "a" * 4_000)]) == 1
    for _ in range(5):
        with refused() as refusal:
            list_tokens(channel, metadata=[("x-some", "a" * 9_000)])
        assert refusal.code in {"RESOURCE_EXHAUSTED", "INTERNAL"}
        assert refusal.reason == ""
    assert list_tokens(channel) == 1


def test_silent_connections_are_closed_and_hold_nobody_up(place: Place) -> None:
    with serve(place, place.tcp()) as serving, contextlib.ExitStack() as stack:
        host, _, port = serving.targets[0].rpartition(":")
        silent = [
            stack.enter_context(socket.create_connection((host, int(port)), LIMIT_S))
            for _ in range(200)
        ]
        started = time.monotonic()
        issued = place.authority.client(uris=["spiffe://example.org/ci"])
        assert list_tokens(serving.mtls(issued)) == 1
        assert all(connection.recv(1) == b"" for connection in silent)
        assert time.monotonic() - started < limits_s("grpc.server_handshake_timeout_ms") + 3


def limits_s(name: str) -> float:
    return dict(limits.CHANNEL_OPTIONS)[name] / 1000


def test_idle_connections_are_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, {"grpc.max_connection_idle_ms": 300})
    with serve(place) as serving:
        connection = raw(serving)
        code, words = connection.first(http2.GOAWAY).goaway()
        connection.close()
    assert (code, words) == (2, b"connection idle")


def test_old_connections_are_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(
        monkeypatch,
        {
            "grpc.max_connection_age_ms": 300,
            "grpc.max_connection_age_grace_ms": 300,
            "grpc.max_connection_idle_ms": 60_000,
        },
    )
    with serve(place) as serving:
        connection = raw(serving)
        code, words = connection.first(http2.GOAWAY).goaway()
        connection.close()
        assert (code, words) == (0, b"max_age")
        # An open stream is cut after the grace.
        stub = tokens_pb2_grpc.TokenServiceStub(serving.local())
        with refused() as refusal:
            list(stub.WatchTokens(tokens_pb2.WatchTokensRequest(), timeout=LIMIT_S))
        assert refusal.code == "UNAVAILABLE"


def test_peers_that_answer_no_ping_are_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is gone without a word, or reads nothing, while a call of it is open."""
    altered(monkeypatch, {"grpc.keepalive_time_ms": 1_000, "grpc.http2.ping_timeout_ms": 1_000})
    with serve(place) as serving:
        connection = raw(serving)
        connection.send(http2.whole_call("/grpc.health.v1.Health/Watch", 1, b""))
        frames = list(connection.frames())
        connection.close()
    (end,) = [frame for frame in frames if frame.kind == http2.GOAWAY]
    assert end.goaway()[1] == b"ping_timeout"
    assert http2.DATA in [frame.kind for frame in frames]


def test_no_more_streams_than_announced(serving: Serving) -> None:
    """gRPC's own clients obey the setting; one that does not has the excess refused."""
    connection = raw(serving)
    # The limit holds from its acknowledgement on.
    connection.first(http2.SETTINGS)
    watch = "/grpc.health.v1.Health/Watch"
    connection.send(b"".join(http2.opening(watch, stream) for stream in range(1, 10_000, 2)))
    refused_stream = (7).to_bytes(4)
    ends = (f.payload for f in connection.frames() if f.kind == http2.RST_STREAM)
    ended = list(itertools.islice(ends, 4_000))
    connection.close()
    assert ended.count(refused_stream) > 2_500


def test_answers_that_are_never_read_are_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC keeps them without a limit, when their handler is long gone."""
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 2.0)
    monkeypatch.setattr(limits, "UNREAD_MAX", 64 * limits.KIB)
    call = "/grpc.health.v1.Health/Check"
    with serve(place) as serving:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(LIMIT_S)
        peer.connect(str(place.admin.path))
        connection = http2.Connection(peer, {http2.INITIAL_WINDOW_SIZE: 0})
        with capture_logs() as logs:
            for count, stream in enumerate(range(1, 12, 2), start=1):
                connection.send(http2.whole_call(call, stream, b""))
                assert wait_for(lambda wanted=count: len(logs) == wanted)  # type: ignore[misc]
        refused_ones = [entry.get("reason") for entry in logs if entry.get("reason")]
        assert refused_ones == ["QUOTA_UNREAD_ANSWERS"] * 3
        cancelled = b"grpc-status\x011"
        ends = (f for f in connection.frames() if f.kind == http2.HEADERS and f.flags & 1)
        assert sum(cancelled in frame.payload for frame in itertools.islice(ends, 6)) == 3
        # All is forgotten.
        stub = health_pb2_grpc.HealthStub(serving.local())
        stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
        connection.close()


def test_ping_floods_end_the_connection(serving: Serving) -> None:
    connection = raw(serving)
    connection.first(http2.SETTINGS)
    connection.ping(8)
    code, words = connection.first(http2.GOAWAY).goaway()
    connection.close()
    enhance_your_calm = 11
    assert (code, words) == (enhance_your_calm, b"too_many_pings")


def test_calls_that_never_send_lose_their_thread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many silent calls as the lane has threads: they are cut, and others get through."""
    monkeypatch.setattr(limits, "RECEIVE_TIMEOUT_S", 0.3)
    leave = threading.Event()

    def nothing() -> Iterator[bytes]:
        leave.wait(LIMIT_S)
        yield from ()

    with serve(place, options=ServerOptions(work_threads=4)) as serving, capture_logs() as logs:
        channel = serving.local()
        silent: Any = channel.stream_unary("/keyd.v1.KeyService/GetKey")
        calls = [silent.future(nothing()) for _ in range(4)]
        codes = {call.code().name for call in calls}
        leave.set()
        assert codes == {"CANCELLED"}
        # The peer hears of its end before the daemon has written it down.
        cut = "RECEIVE_TIMEOUT"
        assert wait_for(lambda: sum(entry.get("reason") == cut for entry in logs) == 4)
        stub = keys_pb2_grpc.KeyServiceStub(channel)
        assert not stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=LIMIT_S).keys


def test_who_waits_for_an_answer_owes_no_message(
    place: Place, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token takes longer for a chunk than a client may for the next; that time is not its."""
    monkeypatch.setattr(limits, "RECEIVE_TIMEOUT_S", 1.0)
    leave = threading.Event()

    def sign_slowly() -> None:
        leave.wait(2.0)

    place.token.before_sign = sign_slowly
    item = to_sign(author, "root-1", "root", author.root())

    def chunks() -> Iterator[signing_pb2.BatchSignMetadataRequest]:
        yield signing_pb2.BatchSignMetadataRequest(items=[item])
        leave.wait(LIMIT_S)

    with serve(place) as serving, capture_logs() as logs:
        stub = signing_pb2_grpc.SigningServiceStub(serving.local())
        stream = stub.BatchSignMetadata(chunks(), timeout=LIMIT_S)
        assert next(stream).results[0].HasField("signature")
        # From the answer on it is the client's turn again, and it stays silent.
        with refused() as refusal:
            next(stream)
        leave.set()
        assert refusal.code == "CANCELLED"
        assert wait_for(lambda: any(entry.get("reason") == "RECEIVE_TIMEOUT" for entry in logs))


def test_a_peer_that_never_reads_loses_its_thread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.5)
    leave = threading.Event()

    def chunks() -> Iterator[signing_pb2.BatchSignMetadataRequest]:
        # Each answer holds 64 errors with details: more than any window soon.
        items = [signing_pb2.MetadataToSign(key="k")] * 64
        for _ in range(60):
            yield signing_pb2.BatchSignMetadataRequest(items=items)
        leave.wait(LIMIT_S)

    with serve(place) as serving, capture_logs() as logs:
        # Small windows: the client's own end would take in megabytes before anybody reads.
        channel = serving.local(options=[("grpc.http2.bdp_probe", 0)])
        stub = signing_pb2_grpc.SigningServiceStub(channel)
        stream = stub.BatchSignMetadata(chunks(), timeout=LIMIT_S)
        assert wait_for(lambda: any(entry.get("reason") == "SEND_TIMEOUT" for entry in logs))
        leave.set()
        with refused() as refusal:
            list(stream)
        assert refusal.code == "CANCELLED"


def wait_for(condition: Callable[[], bool]) -> bool:
    """Look again and again, for ten seconds at most."""
    deadline = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def test_many_long_findings_reach_the_client(place: Place, serving: Serving) -> None:
    """Details in trailers are cut below what clients receive, and say so."""
    make_key(place.world, "layouts", content=Content.OPAQUE)
    words = "\N{GREEK SMALL LETTER ALPHA}" * 500
    findings = [Finding("S3", "HASH_LENGTH", f"/targets/{n}", words) for n in range(1000)]
    place.token.failures.append(PolicyViolation("HASH_LENGTH", words, findings=findings))
    stub = signing_pb2_grpc.SigningServiceStub(serving.local())
    with refused() as refusal:
        stub.SignOpaque(signing_pb2.SignOpaqueRequest(key="layouts", data=b"x"), timeout=LIMIT_S)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "HASH_LENGTH")
    info, failure = refusal.detail(ErrorInfo), refusal.detail(PreconditionFailure)
    assert isinstance(info, ErrorInfo)
    assert isinstance(failure, PreconditionFailure)
    assert len(failure.violations) + int(info.metadata["findings_omitted"]) == 1000


def test_refused_calls_leave_their_connection_usable(place: Place, serving: Serving) -> None:
    """gRPC counts a call until Python lets go of it, and 64 at once are all a connection may have.

    An error that its raiser keeps in a variable would hold the call's frames until the next garbage
    collection, which refused calls, never seen by Python, do not bring about.
    """
    make_key(place.world, "layouts", content=Content.OPAQUE)
    stub = signing_pb2_grpc.SigningServiceStub(serving.local(options=[("grpc.enable_retries", 0)]))
    rounds = 2 * 64
    place.token.failures += [BackendUnavailable("TOKEN_OFFLINE", "away") for _ in range(rounds)]
    gc.disable()
    try:
        for number in range(rounds):
            request = signing_pb2.SignOpaqueRequest(key="layouts", data=b"%d" % number)
            with refused() as refusal:
                stub.SignOpaque(request, timeout=LIMIT_S)
            assert refusal.reason == "TOKEN_OFFLINE", refusal.message
    finally:
        gc.enable()


def test_a_port_is_bound_once(place: Place) -> None:
    listener = place.tcp()
    with serve(place, listener) as serving, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        host, _, port = serving.targets[0].rpartition(":")
        with pytest.raises(OSError, match="Address already in use"):
            other.bind((host, int(port)))
