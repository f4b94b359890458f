"""The worker program by itself, spoken to over its socket as the supervisor does."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from keyd.backends.process import WORKER_COMMAND, WorkerProcess
from keyd.wire.frames import FrameBuffer, encode_frame
from keyd.wire.worker_pb2 import (
    Failure,
    Find,
    FromWorker,
    Generate,
    Inventory,
    KeyReference,
    Login,
    Open,
    Probe,
    Reopen,
    Request,
    Response,
    Sign,
    TokenMatch,
    ToWorker,
)
from tests.fleets import PATIENCE_S
from tests.softhsm import SoftHSMToken, create_softhsm

CKA_ID = bytes(range(16))
P256 = "ecdsa-sha2-nistp256"


class Peer:
    """The daemon's end of one worker's socket."""

    def __init__(
        self, environment: Mapping[str, str], *, development: bool = False, sandbox: str = "unix"
    ) -> None:
        self.worker = WorkerProcess(WORKER_COMMAND, environment, development, sandbox)
        self.socket = self.worker.socket
        self.socket.settimeout(PATIENCE_S)
        self._frames = FrameBuffer()
        self._last_id = 0
        self.answer_sizes: list[int] = []

    def ask(self, **kind: object) -> Response:
        [answer] = self.ask_all([Request(**kind)])  # type: ignore[arg-type]
        return answer

    def ask_all(self, requests: list[Request]) -> list[Response]:
        """Send one frame; all answers, in the order of the requests."""
        for request in requests:
            self._last_id += 1
            request.id = self._last_id
        self.socket.sendall(encode_frame(ToWorker(requests=requests).SerializeToString()))
        answers: dict[int, Response] = {}
        while len(answers) < len(requests):
            received = self.socket.recv(65536)
            assert received, "the worker ended"
            self._frames.feed(received)
            for message in self._frames.messages():
                group = FromWorker.FromString(message).responses
                self.answer_sizes.append(len(group))
                answers |= {each.id: each for each in group}
        return [answers[request.id] for request in requests]

    def end(self) -> int | None:
        """Close the socket as a daemon that ends does; the exit status."""
        self.socket.close()
        return self.worker.reap()


@pytest.fixture
def peer(softhsm: SoftHSMToken) -> Iterator[Peer]:
    peer = Peer(softhsm.env)
    yield peer
    peer.worker.kill()
    peer.end()


def open_for(token: SoftHSMToken) -> Open:
    match = TokenMatch(label=token.label, serial=token.serial)
    return Open(module=str(token.module), token=match, sessions=2)


def failure(response: Response) -> tuple[str, str]:
    assert response.HasField("failure"), response.WhichOneof("kind")
    return Failure.Kind.Name(response.failure.kind), response.failure.code


def logged_in(peer: Peer, token: SoftHSMToken) -> bytes:
    """Open, log in, generate a P-256 key; its public key."""
    assert peer.ask(open=open_for(token)).HasField("opened")
    assert peer.ask(login=Login(credential_file=str(token.pin_file))).HasField("logged_in")
    made = peer.ask(generate=Generate(scheme=P256, cka_id=CKA_ID, label="x"))
    return made.key_pair.public_der


def sign_request(public_der: bytes, data: bytes = b"message") -> Request:
    reference = KeyReference(cka_id=CKA_ID, public_der=public_der, scheme=P256)
    return Request(sign=Sign(key=reference, data=data))


def test_nothing_works_before_open_and_open_works_once(peer: Peer, softhsm: SoftHSMToken) -> None:
    for kind in ({"inventory": Inventory()}, {"probe": Probe()}, {"reopen": Reopen()}):
        assert failure(peer.ask(**kind)) == ("KIND_INVALID", "NOT_OPEN")
    opened = peer.ask(open=open_for(softhsm)).opened
    assert (opened.serial, opened.label, opened.sessions) == (softhsm.serial, softhsm.label, 2)
    assert failure(peer.ask(open=open_for(softhsm))) == ("KIND_INVALID", "ALREADY_OPEN")


def test_before_the_login_only_public_objects_are_seen(peer: Peer, softhsm: SoftHSMToken) -> None:
    public_der = logged_in(peer, softhsm)
    assert peer.ask(reopen=Reopen()).HasField("opened")
    [pair] = peer.ask(inventory=Inventory()).key_pairs.pairs
    assert (pair.public_der, pair.private_found) == (public_der, False)
    assert failure(peer.ask_all([sign_request(public_der)])[0])[0] in (
        "KIND_KEY_NOT_FOUND",
        "KIND_NOT_LOGGED_IN",
    )
    # The worker does not log in again by itself.
    assert failure(peer.ask(find=Find(cka_id=CKA_ID)))[0] == "KIND_KEY_NOT_FOUND"
    again = Login(typed=softhsm.pin.encode())
    assert peer.ask(login=again).HasField("logged_in")
    assert peer.ask_all([sign_request(public_der)])[0].HasField("signed")
    assert failure(peer.ask(login=again)) == ("KIND_INVALID", "ALREADY_LOGGED_IN")


def test_a_full_frame_is_answered_in_groups(peer: Peer, softhsm: SoftHSMToken) -> None:
    public_der = logged_in(peer, softhsm)
    peer.ask_all([sign_request(public_der)])
    peer.answer_sizes.clear()
    answers = peer.ask_all([sign_request(public_der, bytes([i])) for i in range(64)])
    assert all(answer.HasField("signed") for answer in answers)
    assert len(peer.answer_sizes) < 32


@pytest.mark.parametrize(
    ("match", "code"),
    [
        (TokenMatch(label="nobody"), "NO_TOKEN_MATCHES"),
        (TokenMatch(serial="0"), "NO_TOKEN_MATCHES"),
        (TokenMatch(label="test", manufacturer="nobody"), "NO_TOKEN_MATCHES"),
        (TokenMatch(manufacturer="SoftHSM project"), "SEVERAL_TOKENS_MATCH"),
    ],
)
def test_a_token_is_matched_by_all_attributes_exactly_once(
    match: TokenMatch, code: str, softhsm: SoftHSMToken, peer: Peer
) -> None:
    if code == "SEVERAL_TOKENS_MATCH":
        _second_token_beside(softhsm)
    answer = peer.ask(open=Open(module=str(softhsm.module), token=match))
    assert failure(answer) == ("KIND_TOKEN_NOT_FOUND", code)
    # Whoever polls for a token need not start a worker for each look.
    assert failure(peer.ask(reopen=Reopen())) == ("KIND_TOKEN_NOT_FOUND", code)


def _second_token_beside(token: SoftHSMToken) -> None:
    other = create_softhsm(token.directory / "second", "second")
    [made] = (other.directory / "tokens").iterdir()
    made.rename(token.directory / "tokens" / made.name)


def test_a_module_that_is_none_is_refused(peer: Peer, tmp_path: Path) -> None:
    nonsense = tmp_path / "module.so"
    nonsense.write_bytes(b"no library")
    kind, _ = failure(peer.ask(open=Open(module=str(nonsense))))
    assert kind == "KIND_TOKEN_FAILED"


@pytest.mark.parametrize(
    "wanted",
    [
        Generate(scheme="rsa-pkcs1v15-sha256", cka_id=CKA_ID),
        Generate(scheme="rsassa-pss-sha256", rsa_bits=1024, cka_id=CKA_ID),
        Generate(scheme="rsassa-pss-sha256", cka_id=CKA_ID),
        Generate(scheme=P256),
        Generate(scheme=P256, cka_id=CKA_ID, label="x" * 65),
    ],
)
def test_impossible_keys_are_refused_before_the_token_is_asked(
    wanted: Generate, peer: Peer, softhsm: SoftHSMToken
) -> None:
    assert peer.ask(open=open_for(softhsm)).HasField("opened")
    assert failure(peer.ask(generate=wanted))[0] == "KIND_INVALID"


@pytest.mark.parametrize("variable", ["PKCS11SPY", "P11_KIT_DEBUG"])
def test_spies_are_refused_unless_developing(variable: str, softhsm: SoftHSMToken) -> None:
    environment = {**softhsm.env, variable: "all"}
    for development in (False, True):
        peer = Peer(environment, development=development)
        answer = peer.ask(open=open_for(softhsm))
        if development:
            assert answer.HasField("opened")
        else:
            assert failure(answer) == ("KIND_INVALID", f"SPY_{variable}")
        assert peer.end() == 0


def test_a_spying_module_is_recognised_behind_a_link(
    peer: Peer, softhsm: SoftHSMToken, tmp_path: Path
) -> None:
    (tmp_path / "pkcs11-spy.so").symlink_to(softhsm.module)
    hidden = tmp_path / "harmless.so"
    real = tmp_path / "real-pkcs11-spy.so"
    real.write_bytes(softhsm.module.read_bytes())
    hidden.symlink_to(real)
    assert failure(peer.ask(open=Open(module=str(hidden)))) == ("KIND_INVALID", "SPY_pkcs11-spy")


def test_it_ends_by_its_socket_and_not_by_a_service_managers_signals(
    peer: Peer, softhsm: SoftHSMToken
) -> None:
    public_der = logged_in(peer, softhsm)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(peer.worker.pid, number)
    assert peer.ask_all([sign_request(public_der)])[0].HasField("signed")
    assert peer.end() == 0


@pytest.mark.parametrize("nonsense", [b"\xff" * 8, b"\0\0\0\4abcd"])
def test_nonsense_from_the_daemon_ends_it(nonsense: bytes, peer: Peer) -> None:
    peer.socket.sendall(nonsense)
    assert peer.worker.reap() == 0


def test_it_is_hardened(peer: Peer, softhsm: SoftHSMToken) -> None:
    assert peer.ask(open=open_for(softhsm)).HasField("opened")
    process = Path("/proc") / str(peer.worker.pid)
    # A process that is not dumpable belongs to root in /proc, whoever runs it.
    assert process.joinpath("environ").stat().st_uid == 0
    assert resource.prlimit(peer.worker.pid, resource.RLIMIT_CORE) == (0, 0)
    if os.geteuid() == 0:
        for stream in ("0", "1", "2"):
            assert process.joinpath("fd", stream).readlink() == Path("/dev/null")
        environment = process.joinpath("environ").read_bytes()
        names = {line.partition(b"=")[0] for line in environment.split(b"\0") if line}
        assert names == {b"PATH", b"LANG", b"SOFTHSM2_CONF"}


def test_it_needs_nothing_of_the_daemon() -> None:
    """Its imports beside the wire messages: the binding, cryptography, protobuf."""
    script = (
        "import sys, keyd.worker.serve, keyd.worker.__main__;"
        "print(*sorted(name for name in sys.modules if name.startswith(('keyd.', 'grpc'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    names = done.stdout.split()
    assert names
    assert all(name.startswith(("keyd.worker", "keyd.wire")) for name in names), names


def test_a_half_sent_request_is_waited_for(peer: Peer, softhsm: SoftHSMToken) -> None:
    frame = encode_frame(
        ToWorker(requests=[Request(id=1, open=open_for(softhsm))]).SerializeToString()
    )
    assert isinstance(peer.socket, socket.socket)
    for byte in frame:
        peer.socket.send(bytes([byte]))
    assert peer.socket.recv(1)
