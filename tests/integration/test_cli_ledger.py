"""Backup, restore and repair by the commands that operators type, around a real daemon."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from keyd_client import KeydClientError
from tests.ledgers import past_triggers
from tests.running import Done, keyd
from tests.sites import Site, make_site
from tests.softhsm import SoftHSMToken


@pytest.fixture
def site(tmp_path: Path, socket_dir: Path, softhsm: SoftHSMToken) -> Site:
    return make_site(tmp_path, socket_dir / "keyd.sock", softhsm)


def ledger(site: Site, verb: str, *arguments: str | Path) -> Done:
    return keyd("ledger", verb, *arguments, "--config", site.config, "--json")


def test_a_restored_ledger_refuses_until_it_is_repaired_on_the_record(
    site: Site, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        copied = ledger(site, "backup", backup)
        assert copied.code == 0, copied.err
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        assert ledger(site, "backup", backup).code == 1  # never overwritten
        with site.client() as client:
            client.keys.create("later", "hsm")
        assert ledger(site, "restore", backup).code == 69  # the daemon has it
        assert daemon.stop() == 0

    restored = ledger(site, "restore", backup)
    assert restored.code == 0, restored.err
    assert restored.json["log_size"] == copied.json["log_size"]
    with site.serve() as daemon:
        refused = daemon.wait_for("ledger_refuses")
        assert "LEDGER_BEHIND_ANCHOR" in refused["reason"]
        ready = daemon.wait_for("daemon_ready", count=2)
        assert ready["status"].startswith("signing nothing:")
        with site.client() as client:
            assert client.tokens.list()
            with pytest.raises(KeydClientError, match="LEDGER_BEHIND_ANCHOR"):
                client.keys.create("refused", "hsm")
        assert daemon.stop() == 0

    wrong = ledger(site, "repair", "--confirm", "something else")
    assert wrong.code == 2
    assert keyd("ledger", "repair", "--config", site.config).code == 2
    repaired = ledger(site, "repair", "--confirm", site.folder / "ledger")
    assert repaired.code == 0, repaired.err
    assert "LEDGER_BEHIND_ANCHOR" in repaired.json["refusal"]
    assert repaired.json["keys"]["keyd-log"] == "ACTIVE"
    assert "must be changed again before the first signature" in repaired.err
    assert repaired.json["origin"].startswith("test.example/log/since-")
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready", count=3)
        with site.client() as client:
            client.keys.create("again", "hsm")
        events = [entry["event"] for entry in site.entries()]
        assert "ledger_repaired" in events
        assert daemon.stop() == 0
    again = ledger(site, "repair", "--confirm", site.folder / "ledger")
    assert again.code == 1
    assert "NOTHING_TO_REPAIR" in again.err


def test_marks_are_written_as_repository_role_and_version(site: Site) -> None:
    confirm = ["--confirm", str(site.folder / "ledger")]
    for wrong in ("demo", "demo/root", "demo=1", "demo/root=x", "/root=1"):
        assert ledger(site, "repair", "--raise", wrong, *confirm).code == 2
    raised = ledger(site, "repair", "--raise", "demo/root=3", *confirm)
    assert raised.code == 0, raised.err
    assert raised.json["raised"] == ["demo/root epoch 0: 0 -> 3"]


def test_verify_and_export_beside_the_daemon(site: Site, tmp_path: Path) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with site.client() as client:
            client.keys.create("k", "hsm")
            signed = client.audit.checkpoint()
        verified = ledger(site, "verify")
        assert verified.code == 0, verified.err
        assert verified.json["ok"] is True
        assert verified.json["log_size"] == signed.size
        exported = ledger(site, "export", tmp_path / "exported", "--no-payloads")
        assert exported.code == 0, exported.err
        assert exported.json["entries"] == signed.size
        assert ledger(site, "export", tmp_path / "exported").code == 1
        check = ["audit", "verify", "--export", str(tmp_path / "exported")]
        assert keyd(*check, "--verifier-key", signed.verifier_key).code == 0
        assert daemon.stop() == 0
    _edit_entry(site.folder / "ledger" / "ledger.db", 2)
    damaged = ledger(site, "verify")
    assert damaged.code == 1
    assert damaged.json["ok"] is False
    assert any(flaw["where"] == "entry 2" for flaw in damaged.json["flaws"]), damaged.json
    assert keyd("ledger", "verify", "--config", site.config).code == 1


def _edit_entry(database: Path, index: int) -> None:
    """Change an entry by hand, as somebody who owns the file can, triggers or not."""
    with past_triggers(database) as connection:
        changed = connection.execute(
            "UPDATE leaves SET data = CAST(replace(data, 'hsm', 'hsx') AS BLOB) WHERE position = ?",
            (index,),
        )
        assert changed.rowcount == 1
