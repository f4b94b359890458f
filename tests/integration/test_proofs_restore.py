"""An older ledger comes back under a daemon that has signed on: the anchor elsewhere notices."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd_client.errors import DaemonFault, KeydClientError, PolicyViolation
from tests.daemon import Installation
from tests.recording import Recorder, check_entries, check_receipts, entries_of
from tests.tally import Promise, tallied

ROLE = "timestamp"


def sign_up_to(recorder: Recorder, first: int, last: int) -> None:
    for version in range(first, last + 1):
        recorder.sign(ROLE, ROLE, recorder.writer.timestamp(version))


def test_copied_at_version_5_signed_to_9_restored(
    installation: Installation, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    config = ("--config", installation.config, "--json")
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        before = installation.recorder()
        sign_up_to(before, 2, 5)
        copied = installation.keyd("ledger", "backup", backup, *config)
        assert copied.code == 0, copied.err
        lost = installation.recorder()
        sign_up_to(lost, 6, 9)
        assert daemon.stop() == 0
    restored = installation.keyd("ledger", "restore", backup, *config)
    assert restored.code == 0, restored.err

    with (
        tallied(Promise.STATE_GUARDED, "an older backup restored") as tally,
        installation.serve() as daemon,
    ):
        tally.injected()
        assert "LEDGER_BEHIND_ANCHOR" in daemon.wait_for("ledger_refuses")["reason"]
        daemon.wait_for("daemon_ready")
        nothing_is_signed(installation)
        assert daemon.stop() == 0

    confirm = ("--confirm", installation.ledger)
    repaired = installation.keyd("ledger", "repair", *confirm, *config)
    assert repaired.code == 0, repaired.err
    digest = [part.split()[-1] for part in repaired.json["raised"] if "/timestamp " in part]
    assert digest == [sha256(lost.receipts[-1].payload).hexdigest()]

    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        after = installation.recorder()
        lost_versions_stay_lost(lost, after)
        sign_up_to(after, 10, 10)
        receipts = [*before.receipts, *after.receipts]
        check_receipts(after.client, receipts)
        entries = entries_of(installation.client())
        check_entries(entries, receipts)
        assert "ledger_repaired" in [entry["event"] for entry in entries]
        assert installation.keyd("audit", "verify").code == 0
        assert daemon.stop() == 0


def lost_versions_stay_lost(lost: Recorder, after: Recorder) -> None:
    """What was published with these versions is not known here, so nothing else may be."""
    for receipt in lost.receipts:
        other = canonical.encode(after.writer.timestamp(receipt.version))
        for payload in (receipt.payload, other):
            with pytest.raises(PolicyViolation) as refused:
                after.sign(ROLE, ROLE, payload)
            assert refused.value.reason == "VERSION_NOT_INCREASING"


def nothing_is_signed(installation: Installation) -> None:
    recorder = installation.recorder()
    writer = recorder.writer
    for version in (6, 9, 10):
        with pytest.raises(DaemonFault) as refused:
            recorder.sign(ROLE, ROLE, writer.timestamp(version))
        gap = refused.value.details["demo/timestamp"]
        assert gap == "demo/timestamp: the ledger is at version 5, the anchor at 9 (epoch 0)"
    with pytest.raises(KeydClientError):
        recorder.client.sign_opaque("layouts", b"nothing at all")
