"""kill -9 at every named place of the order of a signature and of a key: what is left, and mended.

The daemon starts with a failpoint that is armed just before the call under test is made, and is
started again with it disarmed. A daemon that does not die by SIGKILL fails the test: nothing would
have been injected.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum

import pytest
from tuf.api.metadata import Metadata, Targets

from keyd.domain import canonical
from keyd.failpoints import Failpoint
from keyd.ledger.verification.verify import verify_ledger
from keyd_client import BatchOutcome, Client, KeydSigner, echo, sign_metadata_batch
from keyd_client.errors import AlreadyExists, Equivocation, NotFound
from keyd_client.messages import label
from tests.daemon import BINS, OPAQUE_KEY, REPOSITORY, TOKEN, Installation
from tests.faults.crashing import Crashing
from tests.recording import (
    Receipt,
    check_disk,
    check_entries,
    check_receipts,
    entries_of,
)
from tests.running import Daemon
from tests.tally import Promise, tallied


class Left(Enum):
    """What the ledger holds of an interrupted signature after the restart."""

    NOTHING = "nothing"
    RESERVATION = "reservation"
    SIGNATURE = "signature"


# The place, which passage of it after arming, and what it leaves. The ledger's places are passed
# once for the reservation and once more for the completion.
SIGNING = {
    "ledger.group_written:1": Left.NOTHING,
    "ledger.group_committed:1": Left.RESERVATION,
    "ledger.group_anchored:1": Left.RESERVATION,
    "sign.after_reserve:1": Left.RESERVATION,
    "sign.after_token:1": Left.RESERVATION,
    "sign.after_verify:1": Left.RESERVATION,
    "ledger.group_written:2": Left.RESERVATION,
    "ledger.group_committed:2": Left.SIGNATURE,
    "ledger.group_anchored:2": Left.SIGNATURE,
    "sign.before_answer:1": Left.SIGNATURE,
}
# Whether the new key is registered afterwards, and how many pairs on the token are not.
KEYS = {
    "key.after_intent:1": (False, 0),
    "key.after_generate:1": (False, 1),
    "sign.after_token:1": (False, 1),  # the proof of possession
    "ledger.group_written:2": (False, 1),
    "ledger.group_committed:2": (True, 0),
    "key.before_answer:1": (True, 0),
}
STARTING = ("ledger.group_written", "ledger.group_committed", "ledger.anchor_rewritten")
# In tests/faults/test_ledger_kill.py: no daemon takes part.
ELSEWHERE = (
    "ledger.created_unnamed",
    "ledger.migration_open",
    "ledger.repair_committed",
    "ledger.backup_copied",
)
# In tests/faults/test_key_deletions.py.
DELETING = ("key.deletion_announced", "key.objects_deleted", "key.deletion_recorded")
# In tests/faults/test_rotation_crashes.py.
ROTATING = tuple(point for point in Failpoint if point.startswith("rotation."))


def test_no_place_is_left_out() -> None:
    passed = {place.partition(":")[0] for place in (*SIGNING, *KEYS, *STARTING)}
    assert passed | set(ELSEWHERE) | set(ROTATING) | set(DELETING) == set(Failpoint)


@pytest.mark.parametrize("place", SIGNING)
def test_a_signature(installation: Installation, place: str) -> None:
    left = SIGNING[place]
    with (
        tallied(Promise.REPEATABLE, "SIGKILL at a place of a signature") as tally,
        Crashing(installation, place) as crashing,
    ):
        receipts = [
            *a_signature_alone(crashing, left),
            *a_signature_among_three(crashing, left),
        ]
        opaque = an_opaque_signature(crashing, left)
        tally.injected(3)
        with afterwards(installation, receipts) as client:
            assert opaque in {entry.get("signature") for entry in entries_of(client)}


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("place", SIGNING)
def test_a_batch(installation: Installation, place: str) -> None:
    with (
        tallied(Promise.REPEATABLE, "SIGKILL at a place of a batch") as tally,
        Crashing(installation, place) as crashing,
    ):
        receipts = a_batch(crashing)
        tally.injected()
        with afterwards(installation, receipts):
            pass


@contextmanager
def afterwards(installation: Installation, receipts: Sequence[Receipt]) -> Iterator[Client]:
    """What must hold after any crash, whoever looks: API, disk, `keyd audit verify`."""
    with installation.client() as client:
        check_receipts(client, receipts)
        entries = entries_of(client)
        check_entries(entries, receipts)
        assert check_disk(installation.ledger, installation.anchor) >= len(entries)
        report = verify_ledger(installation.ledger, anchor=installation.anchor)
        assert report.sound, report.flaws
        verified = installation.keyd("audit", "verify", "--json")
        assert verified.code == 0, verified.err
        assert verified.json["log_size"] >= len(entries)
        yield client


def a_signature_alone(crashing: Crashing, left: Left) -> list[Receipt]:
    writer = crashing.installation.recorder().writer
    wanted = writer.timestamp(2)
    other = wanted | writer.common("timestamp", 2, days=0.5)
    payloads = canonical.encode(wanted), canonical.encode(other)
    return interrupted(crashing, left, "timestamp", "timestamp", 2, payloads, set())


def a_signature_among_three(crashing: Crashing, left: Left) -> list[Receipt]:
    """Root 2: one key signed before the crash, one in it, one after it."""
    recorder = crashing.installation.recorder()
    wanted = recorder.writer.root(2)
    change = recorder.change_digest(wanted)
    payload, other = canonical.encode(wanted), canonical.encode(recorder.writer.root(2, days=300))
    recorder.sign("root-1", "root", payload, change)
    receipts = interrupted(
        crashing, left, "root-2", "root", 2, (payload, other), {"root-1"}, change
    )
    after = crashing.installation.recorder()
    assert after.sign("root-3", "root", payload, change).accepted
    assert signers(after.client, "root", 2, payload) == {"root-1", "root-2", "root-3"}
    return [*recorder.receipts, *receipts, *after.receipts]


def interrupted(
    crashing: Crashing,
    left: Left,
    key: str,
    role: str,
    version: int,
    payloads: tuple[bytes, bytes],
    earlier: set[str],
    change: bytes = b"",
) -> list[Receipt]:
    """Kill the daemon under a signature over the first payload; then try both of them."""
    payload, other = payloads
    before = crashing.installation.recorder()
    before.public_key(key)
    error = crashing.interrupt(before.client, lambda: before.sign(key, role, payload, change))
    assert error is not None, "a signature was received that may not be recorded"

    after = crashing.installation.recorder()
    held = signers(after.client, role, version, payload)
    if left is Left.NOTHING:
        assert held == (earlier or None)
    else:
        assert held == (earlier | {key} if left is Left.SIGNATURE else earlier)
    if held is not None:
        with pytest.raises(Equivocation):
            after.sign(key, role, other)
    first = after.sign(key, role, payload, change)
    assert first.replayed == (left is Left.SIGNATURE)
    with pytest.raises(Equivocation):
        after.sign(key, role, other)
    again = after.sign(key, role, payload, change)
    assert again.replayed
    assert again.signature == first.signature
    return after.receipts


def signers(client: Client, role: str, version: int, payload: bytes) -> set[str] | None:
    """Whose signatures over the payload are recorded for a version; None: it is not reserved."""
    try:
        found = client.get_signature(role, version)
    except NotFound:
        return None
    assert found.payload == payload
    return {one.key for one in found.signatures}


def a_batch(crashing: Crashing) -> list[Receipt]:
    """The SDK's batch goes on by itself when the daemon is back, and has every item signed."""
    with crashing.installation.client("release") as client:
        public_key = echo.public_key(client.keys.get("bins"))
        signer = KeydSigner(client.profile, "bins", public_key)

        def batch(days: int) -> tuple[dict[str, Metadata[Targets]], list[BatchOutcome]]:
            expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
            files = {name: Metadata(Targets(expires=expires)) for name in BINS}
            items = [(file, name, signer) for name, file in files.items()]
            return files, sign_metadata_batch(client, items)

        files, outcomes = crashing.outlive(lambda: batch(days=30))
        assert [outcome.error for outcome in outcomes] == [None] * len(BINS)
        _, others = batch(days=29)
        assert {type(outcome.error) for outcome in others} == {Equivocation}
    return [
        Receipt(
            REPOSITORY,
            name,
            1,
            "bins",
            file.signed_bytes,
            bytes.fromhex(file.signatures[public_key.keyid].signature),
        )
        for name, file in files.items()
    ]


def an_opaque_signature(crashing: Crashing, left: Left) -> str:
    data = b"no metadata\n"
    before = crashing.installation.client("release")
    error = crashing.interrupt(before, lambda: before.sign_opaque(OPAQUE_KEY, data))
    assert error is not None, "a signature was received that may not be recorded"
    with crashing.installation.client("release") as client:
        first = client.sign_opaque(OPAQUE_KEY, data)
        echo.verified(echo.public_key(client.keys.get(OPAQUE_KEY)), first, data)
        assert first.replayed == (left is Left.SIGNATURE)
        again = client.sign_opaque(OPAQUE_KEY, data)
        assert again.replayed
        assert again.signature == first.signature
    return first.signature.hex()


@pytest.mark.parametrize("place", KEYS)
def test_a_key(installation: Installation, place: str) -> None:
    registered, strays = KEYS[place]
    with (
        tallied(Promise.RECORDED, "SIGKILL at a place of a key's making") as tally,
        Crashing(installation, place) as crashing,
    ):
        client = installation.client()
        acknowledged = fingerprints(client)
        error = crashing.interrupt(
            client, lambda: client.keys.create("late", TOKEN, content="opaque", request_id="r-1")
        )
        assert error is not None
        tally.injected()
        with installation.client() as client:
            present = fingerprints(client)
            assert acknowledged.items() <= present.items()
            assert ("late" in present) == registered
            on_token = client.tokens.keys(TOKEN)
            left_over = [key for key in on_token if not key.registered_as]
            assert len(left_over) == strays
            made = client.keys.create("late", TOKEN, content="opaque", request_id="r-1")
            assert made.key_sha256 == present.get("late", made.key_sha256)
            assert made.key_sha256 not in {key.key_sha256 for key in left_over}
            with pytest.raises(AlreadyExists):
                client.keys.create("late", TOKEN, content="opaque", request_id="r-2")
            for name in (OPAQUE_KEY, "late"):
                assert client.sign_opaque(name, b"still there").signature
        recorder = installation.recorder()
        recorder.sign("timestamp", "timestamp", recorder.writer.timestamp(2))
        with afterwards(installation, recorder.receipts) as client:
            events = [e["event"] for e in entries_of(client) if e.get("key") == "late"]
            assert events.count("key_created") == 1
            assert events.count("intent_closed") == (not registered)


def fingerprints(client: Client) -> dict[str, bytes]:
    return {key.name: key.key_sha256 for key in client.keys.list()}


@pytest.mark.parametrize("place", STARTING)
def test_the_next_start_itself(installation: Installation, place: str) -> None:
    """A start that has a crash to clear up is killed at its first, second, … passage.

    Killed after the record that the PIN is about to be presented, keyd never presents it again:
    an operator has to say so, here with the same credential.
    """
    recorder = installation.recorder()
    with Crashing(installation, "sign.after_reserve") as crashing:
        payload = canonical.encode(recorder.writer.timestamp(2))
        recorder.public_key("timestamp")
        crashing.die(recorder.client, lambda: recorder.sign("timestamp", "timestamp", payload))
    installation.arm()
    with tallied(Promise.RECORDED, "SIGKILL at a place of a start") as tally:
        for passage in itertools.count(1):
            with installation.serve(f"{place}:{passage}") as daemon:
                if not started(daemon):
                    assert daemon.running.wait() == -signal.SIGKILL, daemon.log.read_text()
                    tally.injected()
                    continue
                installation.disarm()
                with installation.client() as client:
                    (token,) = client.tokens.list()
                    if label(token, "state") == "PIN_REQUIRED":
                        assert "unknown outcome" in token.detail
                        client.tokens.unlock(TOKEN)
                after = installation.recorder()
                assert not after.sign("timestamp", "timestamp", payload).replayed
                with afterwards(installation, after.receipts):
                    break
    assert passage > 1, "no start was killed"


def started(daemon: Daemon) -> bool:
    """Whether it got as far as serving, instead of dying."""
    while not any(event["event"] == "daemon_ready" for event in daemon.events()):
        try:
            daemon.running.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        return False
    return True
