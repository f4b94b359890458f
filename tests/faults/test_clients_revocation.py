"""A stolen client certificate, revoked while 50 streams of it are open and busy."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import grpc
import pytest

from keyd_protos.v1 import signing_pb2, signing_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from tests.certificates import Issued
from tests.daemon import CI, OPAQUE_KEY, REPOSITORY
from tests.fleets import wait_until
from tests.serving import Refusal
from tests.tally import Promise, tallied
from tests.tls_sites import Door, Target

BATCHES, WATCHES, CALLERS = 44, 4, 2
WITHIN_S = 5.0
GO_ON_S = 7.0
LIMIT_S = 60.0


@dataclass
class Client:
    """What one client was granted last, and how it ended."""

    successes: int = 0
    last_success: float = 0.0
    refusals: list[str] = field(default_factory=list)

    def succeeded(self) -> None:
        self.last_success = time.monotonic()
        self.successes += 1

    def refused(self, error: grpc.RpcError) -> None:
        refusal = Refusal()
        refusal.read(error)
        self.refusals.append(refusal.reason)


def channel_of(door: Door) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        (door.folder / "ca.pem").read_bytes(),
        (door.folder / f"{door.name}.key").read_bytes(),
        (door.folder / f"{door.name}.pem").read_bytes(),
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{door.port}", credentials, options)


def batch(door: Door, client: Client, over: Event) -> None:
    """A stream that asks for one signature after the other."""

    def chunks() -> Iterator[signing_pb2.BatchSignMetadataRequest]:
        item = signing_pb2.MetadataToSign(
            key="timestamp", repository=REPOSITORY, role="timestamp", payload=b"{}"
        )
        while not over.wait(0.2):
            yield signing_pb2.BatchSignMetadataRequest(items=[item])

    with channel_of(door) as channel:
        stub = signing_pb2_grpc.SigningServiceStub(channel)
        while not over.wait(0.3):
            try:
                for _ in stub.BatchSignMetadata(chunks(), timeout=LIMIT_S):
                    client.succeeded()
            except grpc.RpcError as error:
                client.refused(error)


def watch(door: Door, client: Client, over: Event) -> None:
    """Told of token events, and of every token at the beginning."""
    with channel_of(door) as channel:
        stub = tokens_pb2_grpc.TokenServiceStub(channel)
        while not over.wait(0.3):
            try:
                stream = stub.WatchTokens(tokens_pb2.WatchTokensRequest(), timeout=GO_ON_S)
                for _ in stream:
                    client.succeeded()
            except grpc.RpcError as error:
                client.refused(error)


def ask(door: Door, client: Client, over: Event) -> None:
    """Single signatures on a connection that stays open."""
    with channel_of(door) as channel:
        stub = signing_pb2_grpc.SigningServiceStub(channel)
        while not over.wait(0.05):
            try:
                stub.SignOpaque(
                    signing_pb2.SignOpaqueRequest(key=OPAQUE_KEY, data=b"x"), timeout=LIMIT_S
                )
                client.succeeded()
            except grpc.RpcError as error:
                client.refused(error)


def by_serial(target: Target) -> None:
    target.site.revoke(f"serial:{issued(target).serial}")


def by_key(target: Target) -> None:
    target.site.revoke(f"key-sha256:{issued(target).key_sha256}")


def by_policy(target: Target) -> None:
    policy = target.installation.policy.read_text()
    assert f', "uri:{CI}"' in policy
    target.installation.policy.write_text(policy.replace(f', "uri:{CI}"', ""))
    target.daemon.send(signal.SIGHUP)


def issued(target: Target) -> Issued:
    folder = target.site.folder
    return Issued((folder / "client.pem").read_bytes(), (folder / "client.key").read_bytes())


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize(
    ("revoke", "reason"),
    [
        (by_serial, "CERTIFICATE_REVOKED"),
        (by_key, "CERTIFICATE_REVOKED"),
        (by_policy, "POLICY_DENIES"),
    ],
    ids=["serial", "key", "policy"],
)
def test_nothing_succeeds_five_seconds_after_a_revocation(
    target: Target, revoke: Callable[[Target], None], reason: str
) -> None:
    """Neither on streams that were open, nor on their connections, nor on new ones."""
    works = [*BATCHES * [batch], *WATCHES * [watch], *CALLERS * [ask]]
    clients, over = [Client() for _ in works], Event()
    with (
        tallied(Promise.DENY_BY_DEFAULT, f"certificate revoked by {revoke.__name__[3:]}") as tally,
        ThreadPoolExecutor(len(works)) as pool,
    ):
        door = target.door
        running = [
            pool.submit(work, door, client, over)
            for work, client in zip(works, clients, strict=True)
        ]
        try:
            wait_until(lambda: all(client.successes for client in clients), "all to be served")
            assert not any(client.refusals for client in clients)
            revoke(target)
            revoked_at = time.monotonic()
            tally.injected(len(clients))
            wait_until(lambda: all(client.refusals for client in clients), "all to be refused")
            over.wait(max(0.0, revoked_at + GO_ON_S - time.monotonic()))
        finally:
            over.set()
        for each in running:
            each.result()
        latest = max(client.last_success for client in clients) - revoked_at
        tally.recovered(max(latest, 0.0))
    print(
        f"{sum(client.successes for client in clients)} successes of {len(clients)} clients, the "
        f"last {latest:+.2f} s after the revocation; "
        f"{sum(len(client.refusals) for client in clients)} refusals since"
    )
    assert latest < WITHIN_S
    assert {each for client in clients for each in client.refusals} == {reason}
