"""A slow token, a greedy client and a stopping daemon: who still gets an answer, and which."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from keyd.domain.keys import Content
from keyd.domain.policy import Policy
from keyd.domain.tokens import SignItem
from keyd.ports import Late
from keyd.rpc import limits
from keyd.rpc.interceptors.metrics import CALLS, SIGNATURES
from keyd.rpc.options import Quota
from keyd.rpc.server import CannotListen, ServerOptions
from keyd_protos.v1 import (
    keys_pb2,
    keys_pb2_grpc,
    signing_pb2,
    signing_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests.serving import CI, LIMIT_S, Place, Serving, refused, serve
from tests.worlds import make_key

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SlowToken:
    """Makes the place's token wait in every signature until it is let go."""

    def __init__(self, place: Place) -> None:
        self.go = threading.Event()
        self.waiting = 0
        self._arrived = threading.Condition()
        make_key(place.world, "slow", content=Content.OPAQUE)
        place.token.before_sign = self._wait

    def _wait(self) -> None:
        with self._arrived:
            self.waiting += 1
            self._arrived.notify_all()
        self.go.wait(LIMIT_S)

    def wait_for(self, calls: int) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.waiting >= calls, LIMIT_S)


@pytest.fixture
def slow(place: Place) -> Iterator[SlowToken]:
    token = SlowToken(place)
    yield token
    token.go.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=200) as executor:
        yield executor


def sign(channel: grpc.Channel, data: str) -> str:
    """The outcome of signing these bytes: "OK", or code and reason."""
    stub = signing_pb2_grpc.SigningServiceStub(channel)
    request = signing_pb2.SignOpaqueRequest(key="slow", data=data.encode())
    try:
        with refused() as refusal:
            stub.SignOpaque(request, timeout=LIMIT_S)
    except AssertionError:
        return "OK"
    return f"{refusal.code} {refusal.reason}"


def start(
    pool: ThreadPoolExecutor, channels: Sequence[grpc.Channel], calls: int, label: str = ""
) -> list[Future[str]]:
    return [
        pool.submit(sign, channels[number % len(channels)], f"{label}{number}")
        for number in range(calls)
    ]


def health(channel: grpc.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT_S).status)


def list_tokens(channel: grpc.Channel) -> int:
    stub = tokens_pb2_grpc.TokenServiceStub(channel)
    return len(stub.ListTokens(tokens_pb2.ListTokensRequest(), timeout=LIMIT_S).tokens)


def test_health_and_tokens_answer_while_64_calls_wait(
    place: Place, slow: SlowToken, pool: ThreadPoolExecutor
) -> None:
    options = ServerOptions(quota=Quota(calls_in_flight=64))
    with serve(place, options=options) as serving:
        channels = [serving.local() for _ in range(4)]
        calls = start(pool, channels, 64)
        slow.wait_for(64)
        probe = serving.local()
        assert health(probe) == SERVING
        started = time.monotonic()
        assert [health(probe) for _ in range(20)] == [SERVING] * 20
        assert list_tokens(probe) == 1
        # 20 probes and an admin call: generous, and far from any timeout of the waiting ones.
        assert time.monotonic() - started < 2
        stub = keys_pb2_grpc.KeyServiceStub(probe)
        with refused() as refusal:
            stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=LIMIT_S)
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "SERVER_BUSY")
        assert refusal.detail(RetryInfo) is not None
        slow.go.set()
        assert {call.result(LIMIT_S) for call in calls} == {"OK"}
        assert stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=LIMIT_S).keys


def test_one_identity_cannot_starve_another(
    place: Place, slow: SlowToken, pool: ThreadPoolExecutor
) -> None:
    """200 slow calls of one certificate: the excess is refused, the other one is served."""
    with serve(place, place.tcp()) as serving:
        greedy = place.authority.client(uris=[CI])
        modest = place.authority.client(hosts=["modest.example.org"])
        channels = [serving.mtls(greedy) for _ in range(4)]
        calls = start(pool, channels, 200)
        slow.wait_for(32)
        stub = keys_pb2_grpc.KeyServiceStub(serving.mtls(modest))
        with refused() as refusal:
            stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=LIMIT_S)
        # It has no grant, but it was heard and judged.
        assert refusal.reason == "POLICY_DENIES"
        assert health(serving.mtls(modest)) == SERVING
        slow.go.set()
        outcomes = [call.result(LIMIT_S) for call in calls]
    assert outcomes.count("OK") >= 32
    rest = {outcome for outcome in outcomes if outcome != "OK"}
    assert rest <= {
        "RESOURCE_EXHAUSTED QUOTA_CALLS_IN_FLIGHT",
        "RESOURCE_EXHAUSTED SERVER_BUSY",
        # gRPC's own ceiling over all lanes refuses without details.
        "RESOURCE_EXHAUSTED ",
    }
    assert "RESOURCE_EXHAUSTED QUOTA_CALLS_IN_FLIGHT" in rest


def test_call_rate_and_bytes(place: Place) -> None:
    quota = Quota(calls_per_s=5, bytes_per_s=1000)
    with serve(place, options=ServerOptions(quota=quota)) as serving:
        channel = serving.local()
        with refused() as refusal:
            for _ in range(200):
                list_tokens(channel)
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_CALL_RATE")
        assert refusal.detail(RetryInfo) is not None
    with serve(place, options=ServerOptions(quota=Quota(bytes_per_s=1000))) as serving:
        channel = serving.local()
        assert sign(channel, "x" * 2000) == "NOT_FOUND KEY_UNKNOWN"
        assert sign(channel, "x" * 2000) == "RESOURCE_EXHAUSTED QUOTA_BYTE_RATE"


def test_watchers_are_bounded(place: Place) -> None:
    with serve(place) as serving:
        stub = tokens_pb2_grpc.TokenServiceStub(serving.local())
        open_ones = [stub.WatchTokens(tokens_pb2.WatchTokensRequest()) for _ in range(4)]
        assert all(next(stream).token.name == "soft" for stream in open_ones)
        with refused() as refusal:
            next(stub.WatchTokens(tokens_pb2.WatchTokensRequest()))
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_CALLS_IN_FLIGHT")
        open_ones[0].cancel()
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            try:
                following = stub.WatchTokens(tokens_pb2.WatchTokensRequest())
                assert next(following).token.name == "soft"
                break
            except grpc.RpcError:
                continue
        else:
            raise AssertionError("a cancelled watcher kept its place")


class TimedToken:
    """Notes how much time each signature was given."""

    def __init__(self, place: Place) -> None:
        self.given: list[float] = []
        make_key(place.world, "slow", content=Content.OPAQUE)
        original = place.token.sign

        def timed(
            items: Sequence[SignItem], timeout_s: float, late: Late | None = None
        ) -> list[bytes | Exception]:
            self.given.append(timeout_s)
            return original(items, timeout_s, late)

        place.token.sign = timed  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("deadline", "most"), [(None, limits.CALL_TIMEOUT_S), (3600.0, limits.CALL_TIMEOUT_S), (2.0, 2)]
)
def test_deadlines_are_passed_on_and_capped(
    place: Place, deadline: float | None, most: float
) -> None:
    token = TimedToken(place)
    with serve(place) as serving:
        stub = signing_pb2_grpc.SigningServiceStub(serving.local())
        stub.SignOpaque(signing_pb2.SignOpaqueRequest(key="slow", data=b"x"), timeout=deadline)
    assert len(token.given) == 1
    # Deadlines travel rounded up.
    assert most - 1 < token.given[0] <= most + 0.1


def test_a_grant_taken_back_meanwhile_withholds_the_answer(
    place: Place, slow: SlowToken, pool: ThreadPoolExecutor
) -> None:
    with serve(place) as serving:
        call = pool.submit(sign, serving.local(), "x")
        slow.wait_for(1)
        threading.Event().wait(limits.AUTHORISED_FOR_S)
        place.policy.policy = Policy("1" * 64, ())
        slow.go.set()
        assert call.result(LIMIT_S) == "PERMISSION_DENIED POLICY_DENIES"


def test_draining_finishes_what_runs_and_takes_nothing_new(
    place: Place, slow: SlowToken, pool: ThreadPoolExecutor
) -> None:
    with serve(place) as serving:
        channel, other = serving.local(), serving.local()
        assert health(other) == SERVING
        watch = health_pb2_grpc.HealthStub(other).Watch(
            health_pb2.HealthCheckRequest(), timeout=LIMIT_S
        )
        assert next(watch).status == SERVING
        events = tokens_pb2_grpc.TokenServiceStub(other).WatchTokens(
            tokens_pb2.WatchTokensRequest(), timeout=LIMIT_S
        )
        next(events)
        running = start(pool, [channel], 3)
        slow.wait_for(3)
        serving.servers.begin_drain()
        assert health(other) == NOT_SERVING
        assert health(other, "keyd.v1.Token/soft") == NOT_SERVING
        assert next(watch).status == NOT_SERVING
        with refused() as refusal:
            list_tokens(other)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        assert refusal.detail(RetryInfo) is not None
        with refused() as refusal:
            list(events)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        stopping = pool.submit(serving.servers.stop, LIMIT_S)
        slow.go.set()
        assert {call.result(LIMIT_S) for call in running} == {"OK"}
        assert stopping.result(LIMIT_S) is True
    assert not place.admin.path.exists()


def test_stopping_cuts_what_outlasts_the_grace(
    place: Place, slow: SlowToken, pool: ThreadPoolExecutor
) -> None:
    with serve(place) as serving:
        running = start(pool, [serving.local()], 1)
        slow.wait_for(1)
        started = time.monotonic()
        assert serving.servers.stop(0.2) is False
        assert time.monotonic() - started < LIMIT_S / 2
        assert running[0].result(LIMIT_S) in {"UNAVAILABLE ", "CANCELLED "}
        slow.go.set()


def test_logs_and_metrics_of_a_call(place: Place) -> None:
    make_key(place.world, "slow", content=Content.OPAQUE)

    def counted(counter: str, **labels: str) -> float:
        metric = {"calls": CALLS, "signatures": SIGNATURES}[counter]
        return float(metric.labels(**labels)._value.get())

    before = counted("signatures", role="opaque", backend="soft", outcome="signed")
    refusals = counted("calls", method="SigningService.SignOpaque", code="NOT_FOUND")
    with capture_logs() as logs, serve(place) as serving:
        stub = signing_pb2_grpc.SigningServiceStub(serving.local())
        request = signing_pb2.SignOpaqueRequest(
            key="slow", data=b"secret payload 4711", request_id="attempt-1"
        )
        stub.SignOpaque(request, timeout=LIMIT_S)
        request.key = "none"
        with refused():
            stub.SignOpaque(request, timeout=LIMIT_S)
    done, denied = (entry for entry in logs if "caller" in entry)
    assert done["event"] == "call_finished"
    assert (done["caller"], done["method"]) == ("unix:admin", "SigningService.SignOpaque")
    assert (done["request_id"], done["code"]) == ("attempt-1", "OK")
    assert (denied["event"], denied["log_level"]) == ("call_refused", "warning")
    assert (denied["code"], denied["reason"]) == ("NOT_FOUND", "KEY_UNKNOWN")
    assert len(done["call_id"]) == 16
    assert "4711" not in str(logs)
    after = counted("signatures", role="opaque", backend="soft", outcome="signed")
    assert after == before + 1
    assert counted("calls", method="SigningService.SignOpaque", code="NOT_FOUND") == refusals + 1


def test_a_refused_start_leaves_nothing_behind(place: Place, serving_release: Serving) -> None:
    """The last of three listeners is taken: the others must not stay bound."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    tcp = replace(place.tcp(), address=address)
    with pytest.raises(CannotListen, match="SOCKET_IN_USE"):
        serve(place, place.admin, tcp, place.release)
    assert not place.admin.path.exists()
    assert list_tokens(serving_release.local()) == 1
    with serve(place, place.admin, tcp) as serving:
        assert serving.targets[-1] == address


@pytest.fixture
def serving_release(place: Place) -> Iterator[Serving]:
    with serve(place, place.release) as running:
        yield running
