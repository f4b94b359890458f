"""Batches: bounded chunks, several under way, each item its own verdict."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from securesystemslib.signer import Signature

from keyd_client import Client, KeydSigner, batch, errors, sign_metadata_batch
from keyd_protos.v1 import signing_pb2
from tests.unit.sdk.scripted_daemon import Refusal, ScriptedDaemon


@dataclass
class Metadata:
    """What a batch needs of python-tuf's class of this name."""

    signed_bytes: bytes
    signatures: dict[str, Signature] = field(default_factory=dict)


@pytest.fixture
def signer(daemon: ScriptedDaemon) -> KeydSigner:
    return KeydSigner(daemon.profile, "root-1", daemon.signers["root-1"].public_key)


def metadata(count: int, size: int = 8) -> list[Metadata]:
    return [Metadata(f"{n}".encode().ljust(size, b".")) for n in range(count)]


def items(signer: KeydSigner, things: list[Metadata]) -> Iterator[tuple[Metadata, str, KeydSigner]]:
    return ((thing, f"bin-{n}", signer) for n, thing in enumerate(things))


def chunk_sizes(daemon: ScriptedDaemon) -> list[int]:
    return [len(chunk.items) for chunk in daemon.of(signing_pb2.BatchSignMetadataRequest)]


def test_signatures_land_in_their_metadata(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    things = metadata(200)
    outcomes = sign_metadata_batch(client, items(signer, things), "demo")
    assert [(o.index, o.role, o.key) for o in outcomes] == [
        (n, f"bin-{n}", "root-1") for n in range(200)
    ]
    for thing, outcome in zip(things, outcomes, strict=True):
        (signature,) = thing.signatures.values()
        assert signature is outcome.signature
        signer.public_key.verify_signature(signature, thing.signed_bytes)
    assert chunk_sizes(daemon) == [64, 64, 64, 8]
    assert not daemon.of(signing_pb2.SignMetadataRequest)


def test_chunks_stay_below_four_megabytes(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    sign_metadata_batch(client, items(signer, metadata(5, 1_500_000)), "demo")
    assert chunk_sizes(daemon) == [2, 2, 1]


def test_several_chunks_are_under_way_and_no_more_than_the_window(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    """The daemon answers only once four chunks have come; a fifth comes after an answer."""
    sent = 0

    def counted() -> Iterator[tuple[Metadata, str, KeydSigner]]:
        nonlocal sent
        for item in items(signer, metadata(640)):
            sent += 1
            yield item

    pulled: list[int] = []

    def after_four(requests: Any) -> Iterator[Any]:
        held = [next(requests) for _ in range(4)]
        pulled.append(sent)
        for chunk in held:
            yield from daemon.batch(iter([chunk]))
        for chunk in requests:
            yield from daemon.batch(iter([chunk]))

    daemon.answers["BatchSignMetadata"] = after_four
    outcomes = sign_metadata_batch(client, counted(), "demo")
    assert all(outcome.signature for outcome in outcomes)
    # One item more is drawn to see that a chunk is full.
    assert pulled == [4 * 64 + 1]


def test_one_refusal_stops_nothing_else(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    refusal = Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NOT_INCREASING", "no", next_version="9"
    )

    def one_refused(requests: Any) -> Iterator[Any]:
        for answer in daemon.batch(requests):
            answer.results[1].error.CopyFrom(refusal.status)
            yield answer

    daemon.answers["BatchSignMetadata"] = one_refused
    things = metadata(3)
    first, second, third = sign_metadata_batch(client, items(signer, things), "demo")
    assert first.signature
    assert third.signature
    assert isinstance(second.error, errors.PolicyViolation)
    assert second.error.details == {"next_version": "9"}
    assert [len(thing.signatures) for thing in things] == [1, 0, 1]


def recovering(daemon: ScriptedDaemon, times: int) -> None:
    """Answer the second item of every stream, `times` times, as a token does that starts."""
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "TOKEN_RECOVERING", "starting", retry_s=0.01)
    left = [refusal] * times

    def answered(requests: Any) -> Iterator[Any]:
        for answer in daemon.batch(requests):
            if left:
                answer.results[min(1, len(answer.results) - 1)].error.CopyFrom(left.pop().status)
            yield answer

    daemon.answers["BatchSignMetadata"] = answered


def test_items_that_the_daemon_wants_later_are_sent_again(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    recovering(daemon, times=2)
    things = metadata(3)
    outcomes = sign_metadata_batch(client, items(signer, things), "demo")
    assert [(o.index, o.error) for o in outcomes] == [(0, None), (1, None), (2, None)]
    assert [len(thing.signatures) for thing in things] == [1, 1, 1]
    assert chunk_sizes(daemon) == [3, 1, 1]


def test_items_that_the_daemon_goes_on_wanting_later_are_given_up(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PATIENCE_S", 0.3)
    recovering(daemon, times=1_000_000)
    first, second, third = sign_metadata_batch(client, items(signer, metadata(3)), "demo")
    assert first.signature
    assert second.error
    assert second.error.reason == "TOKEN_RECOVERING"
    assert third.signature
    assert len(chunk_sizes(daemon)) > 2


def test_items_that_fail_after_long_work_are_sent_again_as_well(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's worker was replaced after longer than a client has patience with failures."""
    recovering(daemon, times=1)
    answered = daemon.answers["BatchSignMetadata"]

    def slowly(requests: Any) -> Iterator[Any]:
        threading.Event().wait(0.6)
        yield from answered(requests)

    monkeypatch.setattr(batch, "PATIENCE_S", 0.3)
    daemon.answers["BatchSignMetadata"] = slowly
    (outcome,) = sign_metadata_batch(client, items(signer, metadata(1)), "demo")
    assert outcome.signature
    assert chunk_sizes(daemon) == [1, 1]


def test_what_is_too_large_is_refused_here_and_the_rest_goes_on(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    things = [Metadata(b"a"), Metadata(bytes(3_750_001)), Metadata(b"c")]
    outcomes = sign_metadata_batch(client, items(signer, things), "demo")
    assert [outcome.error and outcome.error.reason for outcome in outcomes] == [
        None,
        "PAYLOAD_TOO_LARGE",
        None,
    ]
    assert chunk_sizes(daemon) == [2]


def test_a_wrong_signature_spoils_its_item_only(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    def one_wrong(requests: Any) -> Iterator[Any]:
        for answer in daemon.batch(requests):
            answer.results[0].signature.signature = answer.results[1].signature.signature
            answer.results[0].signature.signature_sha256 = answer.results[
                1
            ].signature.signature_sha256
            yield answer

    daemon.answers["BatchSignMetadata"] = one_wrong
    things = metadata(2)
    first, second = sign_metadata_batch(client, items(signer, things), "demo")
    assert first.error
    assert first.error.reason == "SIGNATURE_INVALID"
    assert second.signature
    assert not things[0].signatures


def test_missing_answers_spoil_their_chunk(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    def short(requests: Any) -> Iterator[Any]:
        for answer in daemon.batch(requests):
            del answer.results[-1]
            yield answer

    daemon.answers["BatchSignMetadata"] = short
    outcomes = sign_metadata_batch(client, items(signer, metadata(3)), "demo")
    assert {outcome.error and outcome.error.reason for outcome in outcomes} == {"ECHO_MISMATCH"}


def test_a_stream_that_breaks_is_taken_up_where_it_broke(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    """Every stream dies after two chunks, as one does that outlives a restart."""
    streams = 0

    def mortal(requests: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        for count, answer in enumerate(daemon.batch(requests)):
            if count == 2:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", "come again", retry_s=0)
            yield answer

    daemon.answers["BatchSignMetadata"] = mortal
    things = metadata(64 * 6)
    outcomes = sign_metadata_batch(client, items(signer, things), "demo")
    assert [outcome.index for outcome in outcomes] == list(range(64 * 6))
    assert all(len(thing.signatures) == 1 for thing in things)
    assert streams == 3


def test_a_daemon_that_stays_away_is_given_up(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(requests: Any) -> Iterator[Any]:
        yield from ()
        next(requests)
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "TOKEN_OFFLINE", "come again")

    monkeypatch.setattr(batch, "PATIENCE_S", 0.5)
    daemon.answers["BatchSignMetadata"] = away
    outcomes = sign_metadata_batch(client, items(signer, metadata(300)), "demo")
    assert len(outcomes) == 300
    assert {outcome.error and outcome.error.reason for outcome in outcomes} == {"TOKEN_OFFLINE"}


def test_a_stream_that_breaks_after_long_work_is_taken_up_as_well(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow token had the only chunk for longer than a client has patience with failures."""
    streams = 0

    def breaking_once(requests: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        if streams == 1:
            next(requests)
            threading.Event().wait(0.6)
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", "come again", retry_s=0)
        yield from daemon.batch(requests)

    monkeypatch.setattr(batch, "PATIENCE_S", 0.3)
    daemon.answers["BatchSignMetadata"] = breaking_once
    (outcome,) = sign_metadata_batch(client, items(signer, metadata(1)), "demo")
    assert outcome.signature
    assert streams == 2


def test_an_expired_stream_is_not_begun_anew(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole time went by without an answer: that was the patience."""
    over = threading.Event()
    streams = 0

    def silent(requests: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        over.wait(20)
        yield from ()

    monkeypatch.setattr(batch, "PATIENCE_S", 0.3)
    daemon.answers["BatchSignMetadata"] = silent
    (outcome,) = sign_metadata_batch(client, items(signer, metadata(1)), "demo", timeout_s=0.6)
    over.set()
    assert outcome.error
    assert outcome.error.reason == "DEADLINE_EXCEEDED"
    assert streams == 1


def test_the_daemon_learns_that_no_chunk_follows(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    def after_the_last(requests: Any) -> Iterator[Any]:
        yield from daemon.batch(iter(list(requests)))

    daemon.answers["BatchSignMetadata"] = after_the_last
    things = metadata(100)
    outcomes = sign_metadata_batch(client, items(signer, things), "demo", timeout_s=20)
    assert all(outcome.signature for outcome in outcomes)
    assert chunk_sizes(daemon) == [64, 36]


def test_a_denied_batch_is_not_repeated(
    client: Client, daemon: ScriptedDaemon, signer: KeydSigner
) -> None:
    streams: list[Any] = []

    def denied(requests: Any) -> Iterator[Any]:
        yield from ()
        streams.append(requests)
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIES", "ask for a grant")

    daemon.answers["BatchSignMetadata"] = denied
    outcomes = sign_metadata_batch(client, items(signer, metadata(3)), "demo")
    assert [type(outcome.error) for outcome in outcomes] == [errors.NotAllowed] * 3
    assert len(streams) == 1


def test_an_empty_batch_asks_for_nothing(client: Client, daemon: ScriptedDaemon) -> None:
    assert sign_metadata_batch(client, [], "demo") == []
    assert not daemon.of(signing_pb2.BatchSignMetadataRequest)
