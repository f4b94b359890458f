"""A full file system under a running daemon: ledger, anchor and token in turn.

Refusals are typed, the daemon serves again without a restart once there is room, and nothing that
was answered is missing from the audit log. Needs root, to mount a tmpfs of 8 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd.ledger.verification.verify import verify_ledger
from keyd_client.errors import KeydClientError
from tests.daemon import OPAQUE_KEY, TOKEN, Installation
from tests.recording import Recorder, check_entries, check_receipts, entries_of
from tests.running import Daemon
from tests.tally import Promise, tallied

SIZE = "8m"
PATIENCE_S = 3.0
# On a busy machine; what a refusal takes is printed.
PROMPT_S = 5.0
RECOVERY_S = 60.0
SETTLED_S = 120.0
FULL = {"LEDGER_DISK_FULL", "LEDGER_WRITE_FAILED", "ANCHOR_WRITE_FAILED"}


@contextmanager
def on_a_small_disk(folder: Path) -> Iterator[Path]:
    """Move a directory onto a file system of its own; yields a path that fills it."""
    aside = folder.with_name(f"{folder.name}-aside")
    mode = oct(folder.stat().st_mode & 0o777)[2:]
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode={mode}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take every byte that is left."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = 1 << 16
        while size:
            try:
                os.write(descriptor, bytes(size))
            except OSError:
                size //= 2
    finally:
        os.close(descriptor)


def refusal_of(recorder: Recorder, last: int) -> tuple[int, KeydClientError]:
    """Sign on until it is refused; the last version that was signed, and the refusal."""
    while True:
        try:
            sign(recorder, last + 1)
        except KeydClientError as error:
            return last, error
        last += 1


def sign(recorder: Recorder, version: int) -> None:
    recorder.sign(
        "timestamp", "timestamp", recorder.writer.timestamp(version), timeout_s=PATIENCE_S
    )


def wait_until_signed(recorder: Recorder, version: int) -> float:
    """Ask again until a version is signed, by the next number if this one is bound already."""
    started = time.monotonic()
    while time.monotonic() - started < RECOVERY_S:
        try:
            sign(recorder, version)
        except KeydClientError as error:
            version = int(error.details.get("next_version", version))
        else:
            return time.monotonic() - started
    raise AssertionError("there is room, and still nothing is signed")


def check_audited(installation: Installation, recorder: Recorder, daemon: Daemon) -> None:
    """What was answered is recorded, before and after a restart."""
    with installation.client() as client:
        check_receipts(client, recorder.receipts)
    assert daemon.stop() == 0
    with installation.serve() as after:
        after.wait_for("daemon_ready")
        with installation.client() as client:
            check_entries(entries_of(client), recorder.receipts)
        assert after.stop() == 0
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws


def check_settled(installation: Installation) -> None:
    """Token calls that were announced and could not begin or end are closed under way."""
    until = time.monotonic() + SETTLED_S
    while (left := verify_ledger(installation.ledger).open_intents) and time.monotonic() < until:
        time.sleep(0.5)
    assert left == 0


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["ledger", "anchor"])
def test_calls_cut_off_by_a_full_disk_are_settled_without_a_restart(
    installation: Installation, name: str
) -> None:
    with (
        tallied(Promise.RECORDED, f"calls cut off by a full disk of the {name}") as tally,
        on_a_small_disk(installation.root / name) as ballast,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        sign(recorder, 2)
        fill(ballast)
        last, _ = refusal_of(recorder, 2)
        tally.injected()
        left = verify_ledger(installation.ledger).open_intents
        # A full ledger takes no announcement either.
        assert left >= (name == "anchor")
        ballast.unlink()
        room = time.monotonic()
        wait_until_signed(recorder, last + 1)
        check_settled(installation)
        print(f"{name}: {left} open, settled {time.monotonic() - room:.0f} s after there was room")
        tally.recovered(time.monotonic() - room)
        check_audited(installation, recorder, daemon)


@pytest.mark.parametrize("name", ["ledger", "anchor"])
def test_a_full_disk_refuses_and_serves_again(installation: Installation, name: str) -> None:
    with (
        tallied(Promise.RECORDED, f"disk of the {name} full") as tally,
        on_a_small_disk(installation.root / name) as ballast,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        sign(recorder, 2)
        fill(ballast)
        tally.injected()
        last, refused = refusal_of(recorder, 2)
        started = time.monotonic()
        with pytest.raises(KeydClientError):
            sign(recorder, last + 1)
        took = time.monotonic() - started
        print(f"{name}: {last - 1} more signatures, then {refused.reason} within {took:.2f} s")
        assert refused.reason in FULL
        assert took < PROMPT_S
        ballast.unlink()
        tally.recovered(wait_until_signed(recorder, last + 1))
        check_audited(installation, recorder, daemon)


def test_a_full_token_makes_no_keys_and_signs_on(installation: Installation) -> None:
    with (
        tallied(Promise.TOKENS_RECOVER, "disk of the token full") as tally,
        on_a_small_disk(installation.softhsm / "tokens") as ballast,
        installation.serve() as daemon,
    ):
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        client = installation.client()
        fill(ballast)
        tally.injected()
        with pytest.raises(KeydClientError) as caught:
            client.keys.create("late", TOKEN, content="opaque", timeout_s=PATIENCE_S)
        print(f"a key on a full token: {caught.value.reason}: {caught.value}")
        ballast.unlink()
        tally.recovered(wait_until_signed(recorder, 2))
        assert client.sign_opaque(OPAQUE_KEY, b"still there").signature
        assert client.keys.create("later", TOKEN, content="opaque").name == "later"
        check_audited(installation, recorder, daemon)
