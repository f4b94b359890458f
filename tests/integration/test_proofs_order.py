"""What system calls tell of the order of a signature, and of flushes and messages being shared."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from keyd_client import Client, KeydSigner, echo, sign_metadata_batch
from tests.daemon import BINS, Installation
from tests.recording import Receipt, Recorder, check_receipts
from tests.running import Daemon
from tests.tally import Promise, tallied
from tests.tracing import SystemCall, read_trace, strace

WAL = "/ledger.db-wal"
ANCHOR = "/anchor.jsonl"
CALLERS = 32
EACH = 5
BATCH = 256


def test_nothing_is_asked_or_answered_before_it_is_flushed(
    installation: Installation, tmp_path: Path
) -> None:
    """100 of 100 signatures: intent on disk, token, completion on disk, anchor, answer."""
    trace = tmp_path / "trace"
    calls = "write,pwrite64,fdatasync,fsync,sendto,sendmsg"
    with installation.serve(launcher=strace(trace, calls)) as daemon:
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        for version in range(2, 102):
            recorder.sign("timestamp", "timestamp", recorder.writer.timestamp(version))
        assert daemon.stop() == 0
    seen = list(read_trace(trace))
    assert len(recorder.receipts) == 100
    after = 0
    with tallied(Promise.RECORDED, "system calls of a signature watched") as tally:
        for receipt in recorder.receipts:
            after = check_order(seen, receipt, after)
            tally.injected()


def check_order(seen: Sequence[SystemCall], receipt: Receipt, after: int) -> int:
    """Check what one signature made the daemon do; returns the place of the answer."""

    def first(is_kind: Callable[[SystemCall], bool], data: bytes, after: int) -> int:
        return next(
            place
            for place, call in enumerate(seen[after:], after)
            if is_kind(call) and data in call.data
        )

    digest = sha256(receipt.payload).hexdigest().encode()
    intent = first(recorded, digest, after)
    asked = first(lambda call: call.name == "sendto", receipt.payload, after)
    completion = first(recorded, receipt.signature.hex().encode(), asked)
    answered = first(lambda call: call.name == "sendmsg", receipt.signature, after)
    assert intent < asked < completion < answered
    check_flushed(seen[intent:asked])
    check_flushed(seen[completion:answered])
    # No flush: the page cache survives the process, and a power cut only makes the anchor older.
    assert any(call.writes(ANCHOR) for call in seen[completion:answered])
    return answered


def recorded(call: SystemCall) -> bool:
    return call.writes(WAL)


def check_flushed(calls: Sequence[SystemCall]) -> None:
    """Whatever was written to the ledger here was flushed here, and something was written."""
    written = max(place for place, call in enumerate(calls) if call.writes(WAL))
    assert any(call.flushes(WAL) for call in calls[written:])


def test_callers_share_flushes_and_messages(installation: Installation, tmp_path: Path) -> None:
    """32 callers, each with a role of its own, one signature after the other."""
    trace = tmp_path / "trace"
    with installation.serve(launcher=strace(trace, "fdatasync,fsync,sendto")) as daemon:
        daemon.wait_for("daemon_ready")
        client = installation.client("release")
        callers = [Recorder(client, "demo") for _ in range(CALLERS)]
        before = metrics(daemon)
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(sign_a_few, callers, BINS))
        after = metrics(daemon)
        receipts = [receipt for caller in callers for receipt in caller.receipts]
        check_receipts(client, receipts)
        assert daemon.stop() == 0
    signatures = len(receipts)
    assert signatures == CALLERS * EACH
    flushes = sum(call.flushes(WAL) for call in read_trace(trace))
    counted = {name: after[name] - before[name] for name in after}
    figures = f"{signatures} signatures, {flushes} flushes of the ledger, {counted}"
    print(figures)
    # Alone, each signature takes two flushes and one message.
    assert flushes < signatures, figures
    assert counted["keyd_ledger_transactions"] == 2 * signatures, figures
    assert counted["keyd_ledger_groups"] < signatures, figures
    assert counted["keyd_token_requests"] >= signatures, figures
    assert counted["keyd_token_frames"] < signatures, figures


def sign_a_few(caller: Recorder, role: str) -> None:
    for version in range(1, EACH + 1):
        caller.sign("bins", role, caller.writer.targets(version))


def test_a_batch_is_no_loop_of_single_calls(installation: Installation, tmp_path: Path) -> None:
    """256 roles in one stream: four chunks, each with two flushes and a message or two."""
    trace = tmp_path / "trace"
    roles = [f"many-{number:03}" for number in range(BATCH)]
    with installation.serve(launcher=strace(trace, "fdatasync,fsync,sendto")) as daemon:
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        delegated = {role: (1, ["bins"]) for role in roles}
        recorder.sign("targets", "targets", recorder.writer.delegating(2, **delegated))
        for version in range(2, 12):  # the queue learns how long a signature takes
            recorder.sign("timestamp", "timestamp", recorder.writer.timestamp(version))
        before = metrics(daemon)
        receipts = sign_batch(recorder.client, roles)
        after = metrics(daemon)
        check_receipts(recorder.client, receipts)
        assert daemon.stop() == 0
    counted = {name: after[name] - before[name] for name in after}
    print(f"{BATCH} signatures, {counted}")
    assert counted["keyd_ledger_transactions"] == 2 * BATCH
    assert counted["keyd_ledger_groups"] <= BATCH / 16
    assert counted["keyd_token_frames"] <= BATCH / 4
    flushes = sum(call.flushes(WAL) for call in read_trace(trace))
    assert flushes < BATCH / 4, "the whole life of the daemon, start and checkpoints included"


def sign_batch(client: Client, roles: Sequence[str]) -> list[Receipt]:
    """Version 1 of each role in one batch."""
    signer = KeydSigner(client.profile, "bins", echo.public_key(client.keys.get("bins")))
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    files = {role: Metadata(Targets(expires=expires)) for role in roles}
    outcomes = sign_metadata_batch(client, [(file, role, signer) for role, file in files.items()])
    assert [outcome.error for outcome in outcomes] == [None] * len(roles)
    return [
        Receipt("demo", outcome.role, 1, "bins", files[outcome.role].signed_bytes, signature)
        for outcome in outcomes
        if outcome.signature
        for signature in [bytes.fromhex(outcome.signature.signature)]
    ]


_SAMPLE = re.compile(r"(keyd_(?:token|ledger)_\w+?)_total(?:\{.*\})? (\S+)")


def metrics(daemon: Daemon) -> dict[str, float]:
    """The daemon's own counts of requests, messages and commits."""
    address = daemon.wait_for("metrics_listening")["address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        samples = map(_SAMPLE.fullmatch, answer.read().decode().splitlines())
        return {sample[1]: float(sample[2]) for sample in samples if sample}
