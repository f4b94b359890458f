"""`keyd dev` as outside programs rely on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from keyd.cli.development.certificates import make_certificates
from keyd.cli.development.layout import Layout
from tests.running import Daemon, Done, dev, keyd


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name: a Unix socket goes below it."""
    with tempfile.TemporaryDirectory(prefix="keyd-dev-", dir="/tmp") as name:
        yield Path(name) / "d"


def ready_of(daemon: Daemon, folder: Path) -> dict[str, object]:
    daemon.wait_for_file(folder / "ready")
    document: dict[str, object] = json.loads((folder / "ready").read_text())
    return document


def ask(folder: Path, *arguments: str) -> Done:
    return keyd(*arguments, environment={"KEYD_PROFILE_DIR": str(folder / "profiles")})


def keys_of(folder: Path) -> dict[str, str]:
    listed = ask(folder, "key", "list", "--json")
    assert listed.code == 0, listed.err
    return {key["name"]: key["key_sha256"] for key in listed.json["keys"]}


def test_everything_is_below_the_directory_and_survives_a_restart(folder: Path) -> None:
    with dev(folder) as daemon:
        ready = ready_of(daemon, folder)
        assert ready["version"] == 1
        assert ready["profile_directory"] == str(folder / "profiles")
        assert ready["socket"] == str(folder / "run" / "keyd.sock")
        assert stat.S_ISSOCK(Path(str(ready["socket"])).stat().st_mode)
        assert str(ready["tcp_address"]).startswith("127.0.0.1:")
        assert ready["tokens"] == ["softhsm"]
        before = keys_of(folder)
        assert set(ready["keys"]) == set(before)  # type: ignore[call-overload]
        assert set(before) >= {"root-1", "root-2", "root-3", "targets-1", "snapshot-1"}
        metadata = {path.name for path in (folder / "repository" / "metadata").iterdir()}
        assert metadata >= {"1.root.json", "1.targets.json", "1.packages.json", "timestamp.json"}
        state = ask(folder, "repo", "state", "--json").json["state"]
        assert state["repository"]["stage"] == "ACTIVE"
        assert daemon.stop() == 0
    assert not (folder / "ready").exists()
    assert not (folder / "run" / "keyd.sock").exists()

    with dev(folder) as daemon:
        ready_of(daemon, folder)
        assert keys_of(folder) == before
        assert {path.name for path in (folder / "repository" / "metadata").iterdir()} == metadata
        verified = ask(folder, "audit", "verify", "--json")
        assert verified.code == 0
        assert verified.json["ok"] is True
        assert daemon.stop(signal.SIGINT) == 0


def test_both_profiles_reach_the_daemon_and_a_stock_client_trusts_the_repository(
    folder: Path,
) -> None:
    from tuf.api.metadata import Metadata, Root

    with dev(folder) as daemon:
        ready_of(daemon, folder)
        over_socket = ask(folder, "repo", "list", "--json", "--profile", "dev").json
        over_tls = ask(folder, "repo", "list", "--json", "--profile", "dev-tls").json
        assert over_socket == over_tls
        # Over TLS nobody is the local administrator, whatever the policy says.
        refused = ask(folder, "repo", "bootstrap", "x", "--threshold", "1", "-p", "dev-tls")
        assert refused.code == 77
        assert "LOCAL_ADMINISTRATOR_ONLY" in refused.err
        assert daemon.stop() == 0
    metadata = folder / "repository" / "metadata"
    root = Metadata[Root].from_file(str(metadata / "1.root.json"))
    root.verify_delegate("root", root)
    assert root.signed.roles["root"].threshold == 2
    assert len(root.signed.roles["root"].keyids) == 3
    targets = Metadata.from_file(str(metadata / "1.targets.json"))
    root.verify_delegate("targets", targets)
    targets.verify_delegate("packages", Metadata.from_file(str(metadata / "1.packages.json")))


def test_kill_9_loses_nothing(folder: Path) -> None:
    with dev(folder) as daemon:
        ready_of(daemon, folder)
        made = ask(folder, "key", "create", "late", "--token", "softhsm", "--json")
        assert made.code == 0, made.err
        daemon.stop(signal.SIGKILL)
    assert (folder / "ready").exists()
    with dev(folder) as daemon:
        # The stale file goes before the daemon serves, so that nobody connects too early.
        daemon.wait_for("daemon_ready", count=2)
        ready_of(daemon, folder)
        assert keys_of(folder)["late"] == made.json["key"]["key_sha256"]
        assert ask(folder, "audit", "verify").code == 0
        assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_start_that_was_cut_short_goes_on(folder: Path, number: signal.Signals) -> None:
    """Stopped while the repository is being built, the next start completes it."""
    with dev(folder) as daemon:
        daemon.wait_for_file(folder / "repository")
        assert daemon.stop(number) == (0 if number == signal.SIGTERM else -number)
        assert not (folder / "ready").exists()
    with dev(folder) as daemon:
        ready_of(daemon, folder)
        assert (folder / "repository" / "metadata" / "timestamp.json").exists()
        assert ask(folder, "repo", "state", "--json").code == 0
        assert daemon.stop() == 0


def test_a_repository_that_cannot_be_built_ends_the_daemon(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "policy.toml").write_text("# nobody may do anything\n")
    done = keyd("dev", "--dir", folder)
    assert done.code == 77
    assert "POLICY_DENIES" in done.err
    assert not (folder / "ready").exists()


def test_two_on_one_directory(folder: Path) -> None:
    with dev(folder) as daemon:
        ready_of(daemon, folder)
        second = keyd("dev", "--dir", folder)
        assert second.code == 69
        assert "DIRECTORY_IN_USE" in second.err
        assert (folder / "ready").exists(), "the second one removed the first one's file"
        served = keyd("serve", "--config", folder / "keyd.toml", "--allow-root")
        assert served.code == 69
        assert "LEDGER_IN_USE" in served.err
        assert ask(folder, "key", "list").code == 0
        assert daemon.stop() == 0


def test_without_softhsm_the_package_is_named(folder: Path) -> None:
    """The real module is hidden in a mount namespace."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("hiding SoftHSM's folder needs root and unshare")
    places = {path.parent for path in Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")}
    hide = "".join(f"mount -t tmpfs none {place} || exit 200; " for place in places)
    script = f'{hide} exec "$0" -P -m keyd dev --dir "$1"'
    command = [unshare, "--mount", "sh", "-c", script, sys.executable, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 200 or "unshare:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 69, done.stderr
    assert "install the Debian package softhsm2" in done.stderr


def test_a_directory_with_blanks_is_refused(tmp_path: Path) -> None:
    done = keyd("dev", "--dir", tmp_path / "a b")
    assert done.code == 2
    assert "blanks" in done.err


def test_a_long_directory_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 20)
    with dev(folder) as daemon:
        ready = ready_of(daemon, folder)
        path = Path(str(ready["socket"]))
        assert len(bytes(path)) <= 107
        assert not path.is_relative_to(folder)
        assert ask(folder, "key", "list").code == 0
        assert daemon.stop() == 0
    assert not path.exists()
    path.parent.rmdir()


@pytest.mark.parametrize(("length", "near"), [(93, True), (94, False)])
def test_the_socket_moves_only_when_it_must(length: int, near: bool) -> None:
    root = Path("/" + "x" * (length - 1))
    assert Layout(root).socket.is_relative_to(root) is near


def served_certificate(folder: Path, address: str) -> str:
    """The PEM certificate that the TCP address shows to a client of ours."""
    tls = folder / "tls"
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    context.load_cert_chain(tls / "client.pem", tls / "client.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as tunnel,
    ):
        return ssl.DER_cert_to_PEM_cert(tunnel.getpeercert(binary_form=True) or b"")


def test_sighup_takes_good_certificates_and_refuses_bad_ones(folder: Path) -> None:
    with dev(folder) as daemon:
        address = str(ready_of(daemon, folder)["tcp_address"])
        certificate = folder / "tls" / "server.pem"
        assert served_certificate(folder, address) == certificate.read_text()

        certificate.unlink()
        assert make_certificates(folder / "tls") == ["server"]
        renewed = certificate.read_text()
        daemon.send(signal.SIGHUP)
        daemon.wait_for("reloaded")
        assert served_certificate(folder, address) == renewed

        certificate.write_text("no certificate")
        policy = folder / "policy.toml"
        policy.write_text(policy.read_text() + "# a change that must not be taken by halves\n")
        daemon.send(signal.SIGHUP)
        assert daemon.wait_for("reload_refused")["reason"] == "TLS_FILES"
        assert served_certificate(folder, address) == renewed
        assert ask(folder, "key", "list", "-p", "dev-tls").code == 0
        loaded = ask(folder, "audit", "list", "--limit", "1000", "--json").json["entries"]
        assert [one["event"] for one in loaded].count("policy_loaded") == 1
        assert daemon.stop() == 0


def test_metrics_tell_when_metadata_expires(folder: Path) -> None:
    with dev(folder, "--set", "metrics.address=127.0.0.1:0") as daemon:
        ready_of(daemon, folder)
        address = daemon.wait_for("metrics_listening")["address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        name = "keyd_metadata_expiry_timestamp_seconds"
        found = dict(re.findall(rf'{name}{{repository="demo",role="(\w+)"}} (\S+)', text))
        assert set(found) == {"root", "targets", "snapshot", "timestamp"}
        timestamp = json.loads((folder / "repository" / "metadata" / "timestamp.json").read_text())
        expires = datetime.fromisoformat(timestamp["signed"]["expires"]).timestamp()
        assert float(found["timestamp"]) == expires
        assert "metrics_incomplete" not in daemon.log.read_text()
        page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
        for exported in re.findall(r"^# TYPE (keyd_\w+)", text, re.MULTILINE):
            if not exported.endswith("_created"):
                assert f"`{exported}`" in page, exported
        assert daemon.stop() == 0
