"""Who gets in over TCP and over Unix sockets, and how quickly one who should not is thrown out."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyd.domain.policy import Policy
from keyd.rpc import limits
from keyd.rpc.server import CannotListen, RpcServers, TcpListener
from keyd_protos.v1 import signing_pb2, signing_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from tests.certificates import SERVER, Authority, Issued
from tests.serving import (
    ADMIN,
    CI,
    LIMIT_S,
    STRANGER,
    Place,
    Serving,
    grant,
    refused,
    serve,
    to_sign,
)
from tests.worlds import Author

# What a client that is turned away at the handshake waits before it gives up.
GIVE_UP_S = 3.0


@pytest.fixture
def serving(place: Place) -> Iterator[Serving]:
    with serve(place, place.admin, place.tcp()) as running:
        yield running


def list_tokens(channel: grpc.Channel, timeout: float = LIMIT_S) -> int:
    stub = tokens_pb2_grpc.TokenServiceStub(channel)
    return len(stub.ListTokens(tokens_pb2.ListTokensRequest(), timeout=timeout).tokens)


def test_a_granted_certificate_gets_in(serving: Serving) -> None:
    assert list_tokens(serving.mtls(serving.place.authority.client(uris=[CI]))) == 1


def test_a_certificate_without_grants_is_denied_and_the_denial_recorded(serving: Serving) -> None:
    stranger = serving.place.authority.client(uris=[STRANGER])
    with refused() as refusal:
        list_tokens(serving.mtls(stranger))
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "POLICY_DENIES")
    leaves = serving.place.world.ledger.read(lambda view: list(view.leaves(0, view.log_size())))
    denied = [leaf.data for leaf in leaves if b'"event":"denied"' in leaf.data]
    assert len(denied) == 1
    assert STRANGER.encode() in denied[0]
    assert b"TokenService.ListTokens" in denied[0]


def test_an_unknown_method_is_unimplemented_for_everybody(serving: Serving) -> None:
    for issued in (CI, STRANGER):
        channel = serving.mtls(serving.place.authority.client(uris=[issued]))
        with refused() as refusal:
            unknown: Any = channel.unary_unary("/keyd.v1.KeyService/ExportPrivateKey")
            unknown(b"", timeout=LIMIT_S)
        assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")


def nothing(_authority: Authority) -> None:
    return None


def from_elsewhere(_authority: Authority) -> Issued:
    return Authority().client(uris=[CI])


def expired(authority: Authority) -> Issued:
    return authority.client(uris=[CI], validity=(timedelta(days=-2), timedelta(days=-1)))


def not_yet_valid(authority: Authority) -> Issued:
    return authority.client(uris=[CI], validity=(timedelta(days=1), timedelta(days=2)))


def of_a_server(authority: Authority) -> Issued:
    return authority.client(uris=[CI], purpose=SERVER)


@pytest.mark.parametrize("make", [nothing, from_elsewhere, expired, not_yet_valid, of_a_server])
def test_unacceptable_certificates_fail_the_handshake(
    serving: Serving, make: Callable[[Authority], Issued | None]
) -> None:
    with refused() as refusal:
        list_tokens(serving.mtls(make(serving.place.authority)), timeout=GIVE_UP_S)
    assert refusal.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert refusal.reason == ""


def test_plain_text_on_the_tls_port(serving: Serving) -> None:
    with grpc.insecure_channel(serving.targets[-1]) as channel, refused() as refusal:
        list_tokens(channel, timeout=GIVE_UP_S)
    assert refusal.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_versions(serving: Serving, version: ssl.TLSVersion, *, accepted: bool) -> None:
    authority = serving.place.authority
    certificate, key = authority.client(uris=[CI]).write(serving.place.directory, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.certificate.decode())
    context.load_cert_chain(certificate, key)
    # OpenSSL would refuse to offer the old ones by itself.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = serving.targets[-1].rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT_S) as plain:
        if accepted:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                assert secured.version() == f"TLSv1.{version.value - ssl.TLSVersion.TLSv1.value}"
            return
        # The server hung up; had our own OpenSSL refused, it would say so in other words.
        with pytest.raises(ssl.SSLError, match=r"UNEXPECTED_EOF|ALERT"):
            context.wrap_socket(plain, server_hostname="localhost")


def test_a_certificate_without_one_clear_name_is_refused(serving: Serving) -> None:
    authority = serving.place.authority
    for issued in (
        authority.issue([], common_name="ci"),
        authority.client(hosts=["*.example.org"]),
        authority.client(uris=[CI, STRANGER]),
    ):
        with refused() as refusal:
            list_tokens(serving.mtls(issued))
        assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CERTIFICATE_IDENTITY")


def test_a_socket_name_cannot_be_claimed_by_a_certificate(serving: Serving) -> None:
    for host in ("admin", "unix"):
        channel = serving.mtls(serving.place.authority.client(hosts=[host]))
        with refused() as refusal:
            list_tokens(channel)
        assert refusal.reason == "POLICY_DENIES"


def test_a_certificate_that_expires_on_an_open_connection(serving: Serving) -> None:
    validity = timedelta(minutes=-5), timedelta(seconds=3)
    channel = serving.mtls(serving.place.authority.client(uris=[CI], validity=validity))
    assert list_tokens(channel) == 1
    refusal = eventually_refused(lambda: list_tokens(channel))
    # From then on gRPC's handshake would refuse as well; this connection stood already.
    assert refusal == ("UNAUTHENTICATED", "CERTIFICATE_EXPIRED")


def eventually_refused(call: Callable[[], object]) -> tuple[str, str]:
    """How the call is refused once it is; it must be within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with refused() as refusal:
                call()
        except AssertionError:
            continue
        return refusal.code, refusal.reason
    raise AssertionError("still let in after ten seconds")


def test_revocation_ends_open_connections_and_streams(serving: Serving) -> None:
    """50 open streams and a busy connection: no success five seconds after the revocation."""
    authority = serving.place.authority
    issued = authority.client(uris=[CI])
    channels = [serving.mtls(issued) for _ in range(13)]
    streams = [
        tokens_pb2_grpc.TokenServiceStub(channel).WatchTokens(
            tokens_pb2.WatchTokensRequest(), timeout=60
        )
        for channel in channels
        for _ in range(4)
    ]
    outcomes = [first(stream) for stream in streams]
    # One identity may hold four watches; the others were refused at once, which is as good.
    assert outcomes.count("event") == 4
    assert outcomes.count("RESOURCE_EXHAUSTED") == len(streams) - 4
    serving.place.revoke(issued)
    revoked_at = time.monotonic()
    assert eventually_refused(lambda: list_tokens(channels[0])) == (
        "UNAUTHENTICATED",
        "CERTIFICATE_REVOKED",
    )
    ends = [last(s) for s, o in zip(streams, outcomes, strict=True) if o == "event"]
    assert time.monotonic() - revoked_at < 5
    assert ends == [("UNAUTHENTICATED", "CERTIFICATE_REVOKED")] * 4
    assert list_tokens(serving.mtls(authority.client(uris=[CI]))) == 1


def first(stream: Iterator[object]) -> str:
    try:
        next(stream)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "event"


def last(stream: Iterator[object]) -> tuple[str, str]:
    with refused() as refusal:
        for _ in stream:
            pass
    return refusal.code, refusal.reason


def test_a_batch_ends_when_its_grant_does(place: Place, serving: Serving) -> None:
    """Grants are judged again for each chunk of an open stream."""
    answered = threading.Event()

    def chunks() -> Iterator[signing_pb2.BatchSignMetadataRequest]:
        item = signing_pb2.MetadataToSign(key="k", payload=b"{}")
        yield signing_pb2.BatchSignMetadataRequest(items=[item])
        answered.wait(LIMIT_S)
        granted = grant([ADMIN], ["TokenService.ListTokens"])
        place.policy.policy = Policy("1" * 64, (granted,))
        yield signing_pb2.BatchSignMetadataRequest(items=[item])

    stub = signing_pb2_grpc.SigningServiceStub(serving.local())
    answers = 0
    with refused() as refusal:
        for _ in stub.BatchSignMetadata(chunks(), timeout=LIMIT_S):
            answers += 1
            answered.set()
    assert answers == 1
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "POLICY_DENIES")


def test_a_batch_at_the_token_keeps_its_signatures_after_a_revocation(
    place: Place, author: Author
) -> None:
    """The chunk was taken up before it; its answer does not leave after it."""
    at_token, go_on = threading.Event(), threading.Event()
    before = place.token.signed

    def sign_slowly() -> None:
        at_token.set()
        go_on.wait(LIMIT_S)

    items = [to_sign(author, key, "root", author.root()) for key in ("root-1", "root-2")]
    chunk = signing_pb2.BatchSignMetadataRequest(items=items)
    issued = place.authority.client(uris=[CI])
    place.token.before_sign = sign_slowly
    with serve(place, place.admin, place.tcp()) as serving:
        stub = signing_pb2_grpc.SigningServiceStub(serving.mtls(issued))
        stream = stub.BatchSignMetadata(iter([chunk]), timeout=LIMIT_S)
        assert at_token.wait(LIMIT_S)
        threading.Event().wait(limits.AUTHORISED_FOR_S)
        place.revoke(issued)
        go_on.set()
        with refused() as refusal:
            next(stream)
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CERTIFICATE_REVOKED")
    assert place.token.signed == before + 2


def test_reload_changes_the_certificate_without_a_restart(serving: Serving) -> None:
    place = serving.place
    issued = place.authority.client(uris=[CI])
    open_channel = serving.mtls(issued)
    assert list_tokens(open_channel) == 1
    other = Authority("other CA")
    other.server().write(place.directory, "server")
    serving.servers.read_tls()()
    assert list_tokens(open_channel) == 1
    assert list_tokens(serving.mtls(issued, trust=other.certificate)) == 1
    with refused():
        list_tokens(serving.mtls(issued), timeout=GIVE_UP_S)


def test_reload_changes_the_client_authority(serving: Serving) -> None:
    place, other = serving.place, Authority("other CA")
    (place.directory / "ca.pem").write_bytes(other.certificate)
    serving.servers.read_tls()()
    assert list_tokens(serving.mtls(other.client(uris=[CI]))) == 1
    with refused():
        list_tokens(serving.mtls(place.authority.client(uris=[CI])), timeout=GIVE_UP_S)


def test_a_bad_reload_keeps_what_works(serving: Serving) -> None:
    place = serving.place
    (place.directory / "server.key").write_bytes(Authority().server().key)
    with pytest.raises(CannotListen, match="TLS_FILES"):
        serving.servers.read_tls()()
    assert list_tokens(serving.mtls(place.authority.client(uris=[CI]))) == 1


def test_a_taken_port_is_not_shared(serving: Serving, place: Place) -> None:
    listener = place.tcp()
    taken = TcpListener(serving.targets[-1], listener.certificate, listener.key, listener.client_ca)
    second = RpcServers(place.world, [taken])
    with pytest.raises(CannotListen, match="ADDRESS_UNUSABLE"):
        second.start()


def test_a_live_socket_is_not_taken_over(serving: Serving, place: Place) -> None:
    second = RpcServers(place.world, [place.admin])
    with pytest.raises(CannotListen, match="SOCKET_IN_USE"):
        second.start()
    assert list_tokens(serving.local()) == 1


def test_a_socket_left_by_a_crash_is_replaced(place: Place) -> None:
    place.admin.path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.admin.path))
    with serve(place) as serving:
        assert list_tokens(serving.local()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_cannot_open_the_socket(serving: Serving, place: Place) -> None:
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError:\n    sys.exit(13)\n"
    )
    # The way to the directory must be open, or the test would prove nothing about the directory.
    Path(place.sockets).chmod(0o755)
    command = [sys.executable, "-c", program, str(place.admin.path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 13
    place.admin.path.parent.chmod(0o755)
    assert subprocess.run(command, check=False, timeout=60).returncode == 13
    place.admin.path.chmod(0o666)
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
