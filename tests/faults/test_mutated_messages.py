"""Bent messages to every method of a running daemon: refusals only, and others keep being served.

``make test`` sends a few thousand, the slow shards 200,000; the seed makes them the same each time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from keyd_protos.v1 import repositories_pb2, repositories_pb2_grpc
from keyd_protos.v1.signing_pb2 import MetadataToSign
from tests.daemon import REPOSITORY, TOKEN, Installation
from tests.faults.bystanders import bystanders
from tests.faults.mutations import Bender, records
from tests.faults.valid_requests import SPARE, Method, every_method
from tests.recording import check_entries, entries_of
from tests.running import Daemon
from tests.serving import Refusal, make_place, serve
from tests.softhsm import create_softhsm
from tests.tally import Promise, tallied
from tests.worlds import new_author

QUICK = 3_000
SHARDS, PER_SHARD = 5, 40_000
SENDERS = 3
TIMEOUT_S = 20.0
# What a bent request may come to. UNAVAILABLE only from the spare token, which requests quarantine.
EXPECTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "PERMISSION_DENIED",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
}
# Growth of the daemon's memory after warming up: caches fill, nothing else.
GROWTH_KIB = 40 * 1024


@dataclass
class Answers:
    """What the requests came to."""

    codes: Counter[str] = field(default_factory=Counter)
    by_method: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, method: Method, request: bytes, refusal: Refusal | None) -> None:
        code = refusal.code if refusal else "OK"
        self.codes[code] += 1
        self.by_method.setdefault(method.path, Counter())[code] += 1
        token_is_away = code != "UNAVAILABLE" or (refusal and refusal.reason.startswith("TOKEN_"))
        if code not in EXPECTED or not token_is_away:
            reason = refusal.reason if refusal else ""
            self.wrong.append(f"{method.path} {code} {reason}: {request[:300]!r}")


@dataclass
class Site:
    """A daemon with a token to spare, its methods, and how to call them with bytes."""

    installation: Installation
    daemon: Daemon
    methods: list[Method]

    @property
    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.daemon.running.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def events(self, name: str) -> list[dict[str, object]]:
        return [event for event in self.daemon.events() if event["event"] == name]

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 2**24)]
        with grpc.insecure_channel(f"unix:{self.installation.socket()}", options) as channel:
            yield channel


@pytest.fixture
def site(installation: Installation, socket_dir: Path) -> Iterator[Site]:
    spare = create_softhsm(socket_dir / "spare", SPARE)
    installation.configure(
        f"""
[[token]]
name = "{SPARE}"
module = "{spare.module}"
uri = "{spare.uri}"
pin_source = "file:{spare.pin_file}"
environment = {{ SOFTHSM2_CONF = "{spare.conf}" }}
"""
    )
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with installation.client() as client:
            methods = every_method(client, installation.recorder("admin"))
        yield Site(installation, daemon, methods)
        assert daemon.stop() == 0


def call(channel: grpc.Channel, method: Method, requests: Sequence[bytes]) -> Refusal | None:
    """Send bytes as they are; None if the call succeeded. Open-ended streams are left again."""
    multi: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method.path)
    answers = multi(iter(requests), timeout=TIMEOUT_S)
    try:
        if method.streams_responses and not method.streams_requests:
            next(answers, None)
            answers.cancel()
        else:
            for _ in answers:
                continue
    except grpc.RpcError as error:
        refusal = Refusal()
        refusal.read(error)
        return refusal
    return None


def requests_for(method: Method, bender: Bender, chance: Random) -> list[bytes]:
    """One bent request; streams have a good one before it now and then."""
    message: Message = chance.choice(method.requests)
    bent = [bender.bend(message)]
    if method.streams_requests and chance.random() < 0.5:
        bent.insert(0, message.SerializeToString())
    return bent


def send(site: Site, seed: str, count: int) -> Answers:
    """One client's share of bent requests, on one connection."""
    good = [message.SerializeToString() for m in site.methods for message in m.requests]
    bender, chance, answers = Bender(seed, good), Random(seed), Answers()
    with site.channel() as channel:
        for _ in range(count):
            method = chance.choice(site.methods)
            requests = requests_for(method, bender, chance)
            answers.add(method, requests[-1], call(channel, method, requests))
    return answers


def send_all(site: Site, seed: str, count: int) -> Answers:
    """Several clients at once."""
    with ThreadPoolExecutor(SENDERS) as pool:
        parts = [
            pool.submit(send, site, f"{seed}-{sender}", count // SENDERS)
            for sender in range(SENDERS)
        ]
        merged = Answers()
        for part in parts:
            answers = part.result()
            merged.codes += answers.codes
            merged.wrong += answers.wrong
            for path, codes in answers.by_method.items():
                merged.by_method.setdefault(path, Counter()).update(codes)
    return merged


def assault(site: Site, seed: str, count: int) -> Answers:
    """Send `count` bent requests, and see what must not have happened."""
    with tallied(Promise.NO_INTERNAL, "bent protobuf messages to a running daemon") as tally:
        answers = _assault(site, seed, count)
        tally.injected(count + count // 5)
    return answers


def _assault(site: Site, seed: str, count: int) -> Answers:
    warm_up = send_all(site, f"{seed}-warm-up", count // 5)
    before = site.memory_kib
    with bystanders(site.installation) as others:
        answers = send_all(site, seed, count)
    growth = site.memory_kib - before
    print(f"\n{count:,} bent messages: {dict(answers.codes)}; memory {growth:+,} KiB")
    print(f"others: {others}")
    assert not [*warm_up.wrong, *answers.wrong][:20]
    assert not site.events("call_crashed")
    assert growth < GROWTH_KIB
    others.check()
    return answers


def check_unharmed(site: Site) -> None:
    """Nothing restarted, and the log verifies."""
    assert site.daemon.running.poll() is None
    workers = [event["token"] for event in site.events("token_worker_started")]
    assert workers.count(TOKEN) == 1
    with site.installation.client() as client:
        check_entries(entries_of(client))
    verified = site.installation.keyd("audit", "verify", "--json")
    assert verified.code == 0, verified.err


def test_what_must_not_happen_is_noticed() -> None:
    method, answers, refusal = Method("/keyd.v1.X/Y", (), False, False), Answers(), Refusal()
    for refusal.code, refusal.status in (
        ("INTERNAL", Status()),
        ("UNKNOWN", Status()),
        ("UNAVAILABLE", Status()),
    ):
        answers.add(method, b"bent", refusal)
    assert len(answers.wrong) == 3
    answers.add(method, b"bent", None)
    assert len(answers.wrong) == 3


def test_every_bend_happens_and_good_requests_stay_good() -> None:
    message = MetadataToSign(key="a", payload=b'{"_type":"root"}')
    data = message.SerializeToString()
    assert b"".join(record.encode() for record in records(data)) == data
    bent = {Bender(str(seed), [data]).bend(message) for seed in range(500)}
    assert len(bent) > 300
    assert max(map(len, bent)) > 4_000


@pytest.mark.parametrize("version", [-1, 0])
def test_a_published_version_below_one_is_an_items_refusal(
    tmp_path: Path, socket_dir: Path, version: int
) -> None:
    """It ended the call with INTERNAL: the answer repeats the version as an unsigned number."""
    place = make_place(tmp_path / "state", socket_dir)
    signed = new_author(place.world).timestamp(version)
    content = json.dumps({"signatures": [], "signed": signed}).encode()
    file = repositories_pb2.MetadataFile(role="timestamp", content=content)
    request = repositories_pb2.ImportMetadataRequest(repository=REPOSITORY, files=[file])
    with serve(place) as serving:
        stub = repositories_pb2_grpc.RepositoryServiceStub(serving.local())
        [taken] = stub.ImportMetadata(request, timeout=TIMEOUT_S).files
    place.world.ledger.close()
    assert not taken.recorded
    assert [finding.reason for finding in taken.findings] == ["VERSION_NOT_POSITIVE"]


def test_bent_messages(site: Site) -> None:
    answers = assault(site, "quick", QUICK)
    assert answers.by_method.keys() == {method.path for method in site.methods}
    refused = sum(answers.codes.values()) - answers.codes["OK"]
    assert refused > QUICK / 2
    assert answers.codes["INVALID_ARGUMENT"] > QUICK / 4
    assert {"OK", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"} <= answers.codes.keys()
    check_unharmed(site)


@pytest.mark.slow(seconds=240)
@pytest.mark.parametrize("seed", range(SHARDS))
def test_many_bent_messages(site: Site, seed: int) -> None:
    assault(site, str(seed), PER_SHARD)
    check_unharmed(site)
