"""`keyd serve` from its start to its end: what it refuses, reloads, finishes and tells systemd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd_client import KeydClientError
from tests.running import keyd
from tests.sites import EVERYTHING, Site, make_site
from tests.softhsm import SoftHSMToken


@pytest.fixture
def site(tmp_path: Path, socket_dir: Path, softhsm: SoftHSMToken) -> Site:
    return make_site(tmp_path, socket_dir / "keyd.sock", softhsm)


# --- systemd --------------------------------------------------------------------------------------


@dataclass
class Systemd:
    """The receiving end of sd_notify(3)."""

    path: Path
    receiver: socket.socket

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    def wait_for(self, line: str) -> list[str]:
        """Every line up to and including the first that begins so."""
        lines: list[str] = []
        while not any(one.startswith(line) for one in lines):
            lines += self.receiver.recv(4096).decode().splitlines()
        return lines


@pytest.fixture
def systemd(socket_dir: Path) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = socket_dir / "notify"
        receiver.bind(str(path))
        receiver.settimeout(30)
        yield Systemd(path, receiver)


def test_systemd_is_told_everything(site: Site, systemd: Systemd) -> None:
    watched = systemd.environment | {"WATCHDOG_USEC": "400000"}
    with site.serve(environment=watched) as daemon:
        first = systemd.wait_for("READY=1")
        assert first[-1] == "READY=1" or first[-1].startswith("STATUS=")
        assert "STATUS=1 of 1 tokens online" in first + systemd.wait_for("STATUS=1 of 1")
        systemd.wait_for("WATCHDOG=1")
        systemd.wait_for("WATCHDOG=1")
        daemon.send(signal.SIGHUP)
        lines = systemd.wait_for("RELOADING=1")
        assert any(one.startswith("MONOTONIC_USEC=") for one in lines)
        systemd.wait_for("READY=1")
        daemon.send(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert daemon.running.wait(20) == 0


def test_ready_comes_only_after_the_login(site: Site, systemd: Systemd) -> None:
    with site.serve(environment=systemd.environment) as daemon:
        systemd.wait_for("READY=1")
        with site.client() as client:
            (token,) = client.tokens.list()
            assert token.detail == ""
            assert token.serial == site.token.serial
            # The log is signed from the beginning.
            assert client.audit.checkpoint().size >= 1
        assert daemon.stop() == 0


def test_a_token_that_is_not_there_is_named_after_a_bounded_wait(
    site: Site, systemd: Systemd
) -> None:
    site.configure(uri="pkcs11:token=elsewhere", start_wait_s="0.5")
    with site.serve(environment=systemd.environment) as daemon:
        lines = systemd.wait_for("READY=1")
        named = "STATUS=0 of 1 tokens online; hsm OFFLINE"
        # On a busy machine the wait ends before the worker has looked.
        if not any(line.startswith(named) for line in lines):
            systemd.wait_for(named)
        assert daemon.stop() == 0


# --- what is refused at the start -----------------------------------------------------------------


def test_root_is_refused_unless_allowed(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be refused")
    done = keyd("serve", "--config", site.config)
    assert done.code == 77
    assert "ROOT_REFUSED" in done.err


def test_a_second_daemon_on_one_ledger_is_refused(site: Site, tmp_path: Path) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        done = site.fails()
        assert done.code == 69
        assert "LEDGER_IN_USE" in done.err
        with site.client() as client:
            assert client.tokens.list()
        assert daemon.stop() == 0


def test_a_second_daemon_on_one_socket_is_refused(site: Site, tmp_path: Path) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        (tmp_path / "other").mkdir()
        other = make_site(tmp_path / "other", site.socket, site.token)
        done = other.fails()
        assert done.code == 69
        assert "SOCKET_IN_USE" in done.err
        with site.client() as client:
            assert client.tokens.list()
        assert daemon.stop() == 0


def test_without_a_ledger_nothing_starts(site: Site) -> None:
    site.configure(ledger=str(site.folder / "nowhere"), anchor=str(site.folder / "no-anchor"))
    done = site.fails()
    assert done.code == 1
    assert "LEDGER_MISSING" in done.err
    assert not (site.folder / "nowhere").exists()


def test_a_lost_ledger_is_not_made_anew(site: Site) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        assert daemon.stop() == 0
    (site.folder / "ledger").rename(site.folder / "lost")
    assert "LEDGER_MISSING" in site.fails().err
    done = keyd("init", "--config", site.config)
    assert done.code == 1
    assert "ANCHOR_EXISTS" in done.err


def test_bad_configurations_are_78(site: Site) -> None:
    site.configure(module="/nonexistent/module.so")
    done = site.fails()
    assert done.code == 78
    assert "/nonexistent/module.so cannot be read" in done.err
    site.configure()
    assert site.fails("--set", "daemon.development=true").code == 78
    assert site.fails("--set", "daemon.nonsense=true").code == 78
    assert site.fails("--set", "metrics.address=0.0.0.0:0").code == 78
    site.policy.write_text("[[grant]]\n")
    done = site.fails()
    assert done.code == 78
    assert "required, but not set" in done.err


def test_nothing_is_left_behind_by_a_start_that_failed(site: Site, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = site.fails("--set", f"metrics.address={address}")
    assert done.code == 69
    assert "ADDRESS_UNUSABLE" in done.err
    assert not site.socket.exists()
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        assert daemon.stop() == 0


# --- PINs -----------------------------------------------------------------------------------------


def test_a_wrong_pin_file_costs_one_try_however_often_keyd_starts(site: Site) -> None:
    wrong = site.folder / "wrong-pin"
    wrong.write_text("000000\n")
    wrong.chmod(0o600)
    site.configure(pin_source=f"file:{wrong}", start_wait_s="5.0")
    for start in (1, 2, 3):
        with site.serve() as daemon:
            ready = daemon.wait_for("daemon_ready", count=start)
            assert "hsm PIN_REQUIRED" in ready["status"]
            assert daemon.stop() == 0
    rejected = [one for one in daemon.events() if "PIN_REJECTED" in json.dumps(one).upper()]
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready", count=4)
        with site.client() as client:
            unlocked = client.tokens.unlock("hsm", site.token.pin.encode())
            assert unlocked.serial == site.token.serial
            assert client.keys.create("k", "hsm").token == "hsm"
        assert daemon.stop() == 0
    assert len(rejected) <= 1
    assert "000000" not in daemon.log.read_text()
    assert site.token.pin not in daemon.log.read_text()


# --- SIGHUP ---------------------------------------------------------------------------------------


def test_sighup_takes_a_good_policy_and_refuses_a_bad_one(site: Site) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with site.client() as client:
            assert list(client.keys.list())
            site.allow("TokenService.ListTokens", "AuditService.ListEntries")
            daemon.send(signal.SIGHUP)
            good = daemon.wait_for("reloaded")
            with pytest.raises(KeydClientError, match="POLICY_DENIES"):
                list(client.keys.list())
            assert client.tokens.list()

            site.policy.write_text("[[grant]]\nname = 'broken'\n")
            daemon.send(signal.SIGHUP)
            refused = daemon.wait_for("reload_refused")
            assert "required, but not set" in refused["message"]
            assert client.tokens.list(), "the old policy must stay in force"
            with pytest.raises(KeydClientError, match="POLICY_DENIES"):
                list(client.keys.list())

            site.allow(*EVERYTHING)
            daemon.send(signal.SIGHUP)
            daemon.wait_for("reloaded", count=2)
            assert list(client.keys.list())
        loaded = [one for one in site.entries() if one["event"] == "policy_loaded"]
        digest = hashlib.sha256(site.policy.read_bytes()).hexdigest()
        assert [one["digest"] for one in loaded] == [digest, good["policy"], digest]
        assert [one["digest_before"] for one in loaded] == ["", digest, good["policy"]]
        assert daemon.stop() == 0


def test_the_same_policy_again_is_no_new_record(site: Site) -> None:
    for start in (1, 2):
        with site.serve() as daemon:
            daemon.wait_for("daemon_ready", count=start)
            daemon.send(signal.SIGHUP)
            assert daemon.wait_for("reloaded", count=start)["policy_changed"] is False
            events = [one["event"] for one in site.entries()]
            assert events.count("policy_loaded") == 1
            assert daemon.stop() == 0


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_tell_tokens_ledger_and_version(site: Site) -> None:
    site.configure(metrics="127.0.0.1:0")
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        address = daemon.wait_for("metrics_listening")["address"]
        with site.client() as client:
            client.tokens.quarantine("hsm", "test")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        assert 'keyd_backend_up{token="hsm"} 0.0' in lines
        assert any(line.startswith("keyd_build_info{") for line in lines)
        assert any(line.startswith("keyd_log_entries ") for line in lines)
        assert "keyd_ledger_refuses 0.0" in lines
        assert any(line.startswith("keyd_rpc_calls_total{") for line in lines)
        port = address.rpartition(":")[2]
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=5)
        assert daemon.stop() == 0


# --- the clockwork --------------------------------------------------------------------------------


def test_checkpoints_follow_the_log_by_themselves(site: Site) -> None:
    site.configure(metrics="127.0.0.1:0")

    def covered(address: str) -> tuple[float, float]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            values = dict(
                line.rsplit(" ", 1)
                for line in answer.read().decode().splitlines()
                if line.startswith("keyd_")
            )
        return float(values["keyd_checkpoint_entries"]), float(values["keyd_log_entries"])

    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        address = daemon.wait_for("metrics_listening")["address"]
        with site.client() as client:
            client.keys.create("k", "hsm")
        while covered(address)[0] < covered(address)[1]:
            assert daemon.running.poll() is None
        assert daemon.stop() == 0


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH"])
def test_code_that_may_be_loaded_beside_the_daemon_is_refused(site: Site, variable: str) -> None:
    """A typed PIN passes through that code as well."""
    with site.serve(environment={variable: "/nonexistent"}) as daemon:
        assert daemon.running.wait(30) == 77
        assert "FOREIGN_CODE" in daemon.log.read_text()


def test_code_that_was_allowed_beside_the_daemon_is_told_and_no_worker_has_it(site: Site) -> None:
    allowed = {"LD_LIBRARY_PATH": "/nonexistent"}
    with site.serve("--allow-foreign-code", environment=allowed) as daemon:
        told = daemon.wait_for("foreign_code_possible")
        assert (told["variable"], told["level"]) == ("LD_LIBRARY_PATH", "warning")
        worker = daemon.wait_for("token_worker_started")["pid"]
        with contextlib.suppress(PermissionError):  # unless we are root
            assert b"LD_" not in Path(f"/proc/{worker}/environ").read_bytes()
        daemon.wait_for("daemon_ready")
        assert daemon.stop() == 0


def test_the_process_gives_up_what_it_does_not_need(site: Site) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        proc = Path(f"/proc/{daemon.running.pid}")
        limits = (proc / "limits").read_text()
        assert any(
            line.split()[:6] == ["Max", "core", "file", "size", "0", "0"]
            for line in limits.splitlines()
        )
        assert "Umask:\t0077" in (proc / "status").read_text()
        maps = (proc / "maps").read_text()
        assert "softhsm" not in maps, "the daemon itself must never load a PKCS#11 module"
        assert daemon.stop() == 0
