"""The connection: lazy, retried where repeating is free, remade when files or process change."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from keyd.backends import calls, refusals
from keyd.errors import KeydError
from keyd.rpc.limits import CHANNEL_OPTIONS
from keyd.rpc.status import code_of
from keyd_client import Client, Profile, channel, errors
from keyd_client.channel import ONCE_ONLY, STREAMS
from keyd_client.status import once_only
from keyd_protos.v1 import (
    keys_pb2,
    officers_pb2,
    proposals_pb2,
    repositories_pb2,
    rotations_pb2,
    signing_pb2,
    tokens_pb2,
)
from tests.unit.sdk.scripted_daemon import SERVICES, Refusal, ScriptedDaemon

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_every_request_is_named_after_its_method() -> None:
    """`Connection.call` tells a method by its request's name."""
    for file in SERVICES:
        for service in file.services_by_name.values():
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                if method.name in ONCE_ONLY:
                    assert ONCE_ONLY[method.name] == service.name
    names = {m.name for f in SERVICES for s in f.services_by_name.values() for m in s.methods}
    assert set(ONCE_ONLY) <= names


def test_no_stream_is_left_to_grpcs_retries() -> None:
    streams = {
        method.name: service.name
        for file in SERVICES
        for service in file.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    assert streams == STREAMS


def test_nothing_is_opened_before_the_first_call(tmp_path: Path) -> None:
    client = Client(Profile(f"unix:{tmp_path}/nobody.sock", timeout_s=5))
    with pytest.raises(errors.BackendUnavailable) as raised:
        client.keys.get("root-1")
    assert raised.value.reason == "DAEMON_UNREACHABLE"
    assert "nobody.sock" in str(raised.value)


def test_unavailable_is_retried_with_the_same_request_id(daemon: ScriptedDaemon) -> None:
    def twice_down(request: signing_pb2.SignMetadataRequest) -> object:
        if len(daemon.of(signing_pb2.SignMetadataRequest)) < 3:
            raise Refusal(UNAVAILABLE, "TOKEN_OFFLINE", "the token is away")
        return daemon.sign(request)

    daemon.answers["SignMetadata"] = twice_down
    with Client(daemon.profile) as client:
        client.sign_metadata("root-1", b"payload")
    requests = daemon.of(signing_pb2.SignMetadataRequest)
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1


def test_two_calls_have_two_request_ids(client: Client, daemon: ScriptedDaemon) -> None:
    client.sign_metadata("root-1", b"payload")
    client.sign_metadata("root-1", b"payload")
    assert len({r.request_id for r in daemon.of(signing_pb2.SignMetadataRequest)}) == 2


def test_retry_info_is_honoured_after_grpc_gave_up(client: Client, daemon: ScriptedDaemon) -> None:
    """gRPC makes five attempts of its own; the daemon's word leads to a sixth."""

    def down(request: keys_pb2.GetKeyRequest) -> object:
        if len(daemon.of(keys_pb2.GetKeyRequest)) < 6:
            raise Refusal(UNAVAILABLE, "TOKEN_OFFLINE", "the token is away", retry_s=0.2)
        return daemon.get_key(request)

    daemon.answers["GetKey"] = down
    assert client.keys.get("root-1").name == "root-1"
    assert len(daemon.of(keys_pb2.GetKeyRequest)) == 6


def test_retry_info_beyond_the_deadline_is_reported(client: Client, daemon: ScriptedDaemon) -> None:
    def down(request: object) -> object:
        raise Refusal(UNAVAILABLE, "TOKEN_OFFLINE", "the token is away", retry_s=60)

    daemon.answers["GetKey"] = down
    with pytest.raises(errors.BackendUnavailable) as raised:
        client.keys.get("root-1")
    assert raised.value.retry_after_s == 60
    assert str(raised.value) == "TOKEN_OFFLINE: the token is away"


def test_acts_that_cannot_be_repeated_are_not(client: Client, daemon: ScriptedDaemon) -> None:
    """A second UnlockToken would cost a second PIN attempt."""

    def down(request: object) -> object:
        raise Refusal(UNAVAILABLE, "TOKEN_OFFLINE", "the token is away", retry_s=0)

    daemon.answers |= dict.fromkeys(ONCE_ONLY, down)
    keys, repositories = client.keys, client.repositories
    calls: dict[type, Callable[[], object]] = {
        tokens_pb2.UnlockTokenRequest: lambda: client.tokens.unlock("t", b"1234"),
        tokens_pb2.QuarantineTokenRequest: lambda: client.tokens.quarantine("t", "why"),
        tokens_pb2.ReleaseTokenRequest: lambda: client.tokens.release("t"),
        keys_pb2.AdoptKeyRequest: lambda: keys.adopt("k", "t", b"\1"),
        keys_pb2.SuspendKeyRequest: lambda: keys.suspend("k"),
        keys_pb2.ResumeKeyRequest: lambda: keys.resume("k"),
        keys_pb2.DeactivateKeyRequest: lambda: keys.deactivate("k"),
        keys_pb2.MarkKeyCompromisedRequest: lambda: keys.mark_compromised("k"),
        keys_pb2.DestroyKeyRequest: lambda: keys.destroy("k"),
        repositories_pb2.BootstrapRepositoryRequest: lambda: repositories.bootstrap("r", ["k"], 1),
        repositories_pb2.RegisterRepositoryRequest: lambda: repositories.register("r", [b"{}"]),
        repositories_pb2.SetRoleRulesRequest: lambda: repositories.set_role_rules(
            "root", repositories_pb2.RoleRules(), "r"
        ),
        rotations_pb2.StartRotationRequest: lambda: client.rotations.start(
            rotations_pb2.RotationChange(), bytes(32)
        ),
        officers_pb2.EnrolFirstOfficersRequest: lambda: client.officers.enrol_first([], 2),
        proposals_pb2.DecideProposalRequest: lambda: client.proposals.decide("p", b"{}"),
        proposals_pb2.ExecuteProposalRequest: lambda: client.proposals.execute("p"),
    }
    assert len(calls) == len(ONCE_ONLY)
    for kind, act in calls.items():
        with pytest.raises(errors.BackendUnavailable):
            act()
        assert len(daemon.of(kind)) == 1, kind


def test_every_call_carries_a_deadline(client: Client, daemon: ScriptedDaemon) -> None:
    client.keys.get("root-1")
    client.keys.get("root-1", timeout_s=3)
    assert 9 < daemon.deadlines[0] < 11
    assert 2 < daemon.deadlines[1] < 4


def test_a_silent_daemon_ends_in_a_typed_error(client: Client, daemon: ScriptedDaemon) -> None:
    answered = threading.Event()
    daemon.answers["GetKey"] = lambda request: answered.wait(10)
    with pytest.raises(errors.DeadlineExceeded, match=r"no answer from unix:.* within 0.3 s"):
        client.keys.get("root-1", timeout_s=0.3)
    answered.set()


def test_a_pin_without_an_answer_is_not_to_be_tried_again(
    client: Client, daemon: ScriptedDaemon
) -> None:
    answered = threading.Event()
    daemon.answers["UnlockToken"] = lambda request: answered.wait(10)
    with pytest.raises(errors.OutcomeUnknown, match="look before you call again"):
        client.tokens.unlock("hsm", b"1234", timeout_s=0.3)
    answered.set()


@pytest.mark.parametrize("outcome", ["NOT_STARTED", "UNKNOWN_RECORDED"])
@pytest.mark.parametrize("kind", [errors.DeadlineExceeded, errors.BackendUnavailable])
def test_what_was_not_begun_may_be_repeated(
    outcome: str, kind: type[errors.KeydClientError]
) -> None:
    late = kind("TOKEN_DEADLINE", "too late", details={"outcome": outcome})
    meant = kind if outcome == "NOT_STARTED" else errors.OutcomeUnknown
    assert type(once_only(late)) is meant


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        (calls.unknown_outcome(), "the token did not answer in time"),
        (refusals.worker_ended("hsm"), "the worker of token hsm ended during the request"),
        (calls.unlock_unanswered("hsm"), "the PIN may have been tried"),
    ],
)
def test_what_may_have_been_done_is_told_as_such_in_the_daemons_words(
    client: Client, daemon: ScriptedDaemon, said: KeydError, fact: str
) -> None:
    """Advice for calls that may be repeated is left out, whatever class it comes with."""

    def refuse(request: object) -> object:
        raise Refusal(
            code_of(said), said.reason, said.message, retry_s=1, outcome=said.details["outcome"]
        )

    daemon.answers["DestroyKey"] = refuse
    with pytest.raises(errors.OutcomeUnknown) as raised:
        client.keys.destroy("root-1")
    assert raised.value.reason == said.reason
    assert fact in raised.value.message
    assert raised.value.message.endswith("may have been carried out: look before you call again")
    assert "retry" not in raised.value.message
    assert raised.value.retry_after_s is None


def test_a_restarted_daemon_is_found_again(socket_dir: Path) -> None:
    path = socket_dir / "keyd.sock"
    client = Client(Profile(f"unix:{path}", timeout_s=10))
    for _ in range(3):
        with ScriptedDaemon(path) as daemon:
            daemon.add_key("root-1")
            assert client.keys.get("root-1").name == "root-1"


def test_a_call_cut_by_a_stopping_daemon_is_repeated(
    client: Client, daemon: ScriptedDaemon
) -> None:
    """gRPC tells a call that meets a closing server that it was cancelled."""
    daemon.add_key("root-1")
    client.keys.get("root-1")
    cuts = [Refusal(grpc.StatusCode.CANCELLED, "", "CANCELLED")]

    def cut_once(request: object) -> object:
        if cuts:
            raise cuts.pop()
        return daemon.get_key(request)

    daemon.answers["GetKey"] = cut_once
    assert client.keys.get("root-1").name == "root-1"
    assert not cuts
    cuts.append(Refusal(grpc.StatusCode.CANCELLED, "", "CANCELLED"))
    with pytest.raises(errors.BackendUnavailable, match="ended the call"):
        client.keys.get("root-1", timeout_s=0.1)


def test_a_daemon_that_answered_before_is_waited_for(socket_dir: Path) -> None:
    """Longer than gRPC's own five attempts take; one that never answered is not."""
    path = socket_dir / "keyd.sock"
    client = Client(Profile(f"unix:{path}", timeout_s=4))
    with ScriptedDaemon(path) as daemon:
        daemon.add_key("root-1")
        client.keys.get("root-1")
    took = []
    for waiting in (client, Client(Profile(f"unix:{path}", timeout_s=5))):
        began = time.monotonic()
        with pytest.raises(errors.BackendUnavailable, match="DAEMON_UNREACHABLE"):
            waiting.keys.get("root-1")
        took.append(time.monotonic() - began)
    assert took[0] > took[1] + 0.5


def test_a_forked_child_gets_a_channel_of_its_own(client: Client, daemon: ScriptedDaemon) -> None:
    """In a fresh interpreter: forking a test runner full of threads proves nothing about users."""
    script = (
        "import os, sys\n"
        "from keyd_client import Client, Profile\n"
        "client = Client(Profile(sys.argv[1], timeout_s=10))\n"
        "client.keys.get('root-1')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if client.keys.get('root-1').name == 'root-1' else 1)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "client.keys.get('root-1')\n"
        "sys.exit(code)\n"
    )
    # Not os.spawnv: it forks this process, whose gRPC threads may hold any lock.
    command = [sys.executable, "-c", script, daemon.profile.target]
    # A daemon switches gRPC's fork support off; users have it on, which is gRPC's default.
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == 0
    assert len(daemon.of(keys_pb2.GetKeyRequest)) == 3


def test_a_client_leaves_before_it_is_sent_away(client: Client) -> None:
    """Else a call that must not be repeated may meet the end of an idle connection."""
    client.keys.get("root-1")
    left: queue.SimpleQueue[float] = queue.SimpleQueue()

    def changed(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.IDLE:
            left.put(time.monotonic())

    with client.connection.lease() as opened:
        began = time.monotonic()
        opened.channel.subscribe(changed)
        assert left.get(timeout=60.0) - began > 1.0
    ours = int(str(dict(channel._OPTIONS)["grpc.client_idle_timeout_ms"]))
    assert 2 * ours < dict(CHANNEL_OPTIONS)["grpc.max_connection_idle_ms"]
    client.keys.get("root-1")


def test_threads_share_one_client(client: Client, daemon: ScriptedDaemon) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: client.keys.get("root-1").name, range(64)))
    assert names == ["root-1"] * 64
    assert len(daemon.peers) == 1


def test_an_edited_profile_leads_elsewhere_without_a_restart(
    socket_dir: Path, profile_dir: Path
) -> None:
    client = Client("here")
    for name in ("one", "another"):
        with ScriptedDaemon(socket_dir / name) as daemon:
            daemon.add_key("root-1")
            (profile_dir / "here.toml").write_text(f'target = "unix:{daemon.socket}"\n')
            client.keys.get("root-1")
            assert len(daemon.requests) == 1
            assert client.profile.target == f"unix:{daemon.socket}"


def test_a_call_under_way_finishes_on_the_channel_it_began_on(
    socket_dir: Path, profile_dir: Path
) -> None:
    profile = profile_dir / "here.toml"
    with ScriptedDaemon(socket_dir / "old") as old, ScriptedDaemon(socket_dir / "new") as new:
        old.add_key("root-1")
        new.add_key("root-1")
        begun, go_on = threading.Event(), threading.Event()

        def slow(request: keys_pb2.GetKeyRequest) -> object:
            begun.set()
            assert go_on.wait(10)
            return old.get_key(request)

        old.answers["GetKey"] = slow
        profile.write_text(f'target = "unix:{old.socket}"')
        client = Client("here")
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(client.keys.get, "root-1")
            assert begun.wait(10)
            profile.write_text(f'target = "unix:{new.socket}"\ntimeout_s = 20')
            client.keys.get("root-1")
            go_on.set()
            assert under_way.result().name == "root-1"
        assert len(new.requests) == 1
        client.close()


def test_watching_ends_quietly_at_its_deadline(client: Client, daemon: ScriptedDaemon) -> None:
    def events(request: object) -> object:
        yield tokens_pb2.WatchTokensResponse(token=tokens_pb2.Token(name="t"))
        threading.Event().wait(2)

    daemon.answers["WatchTokens"] = events
    began = time.monotonic()
    assert [event.token.name for event in client.tokens.watch(timeout_s=0.5)] == ["t"]
    assert time.monotonic() - began < 2


def test_a_stranger_on_the_socket_is_no_daemon(socket_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(socket_dir / "s"))
        client = Client(Profile(f"unix:{socket_dir}/s", timeout_s=2))
        with pytest.raises(errors.BackendUnavailable, match="DAEMON_UNREACHABLE"):
            client.keys.get("root-1")
