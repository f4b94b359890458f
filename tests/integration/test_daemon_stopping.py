"""How `keyd serve` ends: by one signal, by many, and by none that it hears."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from keyd_client import KeydClientError
from tests.running import keyd
from tests.sites import Site, make_site
from tests.softhsm import SoftHSMToken


@pytest.fixture
def site(tmp_path: Path, socket_dir: Path, softhsm: SoftHSMToken) -> Site:
    return make_site(tmp_path, socket_dir / "keyd.sock", softhsm)


def test_sigterm_finishes_the_calls_in_flight(site: Site) -> None:
    """RSA-4096 takes a while: it is under way when the signal comes, and is answered."""
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        answers: list[object] = []

        def generate() -> None:
            with site.client() as client:
                try:
                    answers.append(
                        client.keys.create("slow", "hsm", scheme="rsassa-pss-sha256", rsa_bits=4096)
                    )
                except KeydClientError as error:
                    answers.append(error)

        caller = threading.Thread(target=generate)
        before = len(site.entries())
        caller.start()
        while len(site.entries()) == before:  # the intent is recorded: the token is at work
            pass
        assert daemon.stop() == 0
        caller.join(30)
    assert len(answers) == 1
    assert getattr(answers[0], "name", None) == "slow", answers[0]
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready", count=2)
        with site.client() as client:
            assert "slow" in {key.name for key in client.keys.list()}
        assert daemon.stop() == 0


def test_sigterms_without_end_do_not_change_the_exit_code(site: Site) -> None:
    """Some of them meet an interpreter that is about to exit."""
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        while daemon.running.poll() is None:
            daemon.send(signal.SIGTERM)
            time.sleep(0.001)
        assert daemon.running.returncode == 0, daemon.log.read_text()[-3000:]


def test_a_second_sigterm_does_not_wait(site: Site) -> None:
    with site.serve("--set", "daemon.stop_grace_s=600") as daemon:
        daemon.wait_for("daemon_ready")
        answers: list[object] = []

        def generate() -> None:
            with site.client() as client:
                try:
                    while True:
                        answers.append(
                            client.keys.create(
                                f"slow-{len(answers)}",
                                "hsm",
                                scheme="rsassa-pss-sha256",
                                rsa_bits=4096,
                                timeout_s=60,
                            )
                        )
                except KeydClientError as error:
                    answers.append(error)

        callers = [threading.Thread(target=generate) for _ in range(3)]
        for caller in callers:
            caller.start()
        before = len(site.entries())
        while len(site.entries()) == before:
            pass
        daemon.send(signal.SIGTERM)
        daemon.wait_for("daemon_stopping")
        daemon.send(signal.SIGTERM)
        assert daemon.running.wait(20) == 0
        for caller in callers:
            caller.join(30)
    with site.serve() as daemon:
        opened = daemon.wait_for("ledger_open", count=2)
        assert opened["intents_closed"] >= 0
        daemon.wait_for("daemon_ready", count=2)
        assert daemon.stop() == 0
    assert keyd("config", "check", "--config", site.config).code == 0


def test_kill_9_and_the_next_start(site: Site) -> None:
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with site.client() as client:
            made = client.keys.create("k", "hsm")
        daemon.stop(signal.SIGKILL)
    assert site.socket.exists()
    with site.serve() as daemon:
        daemon.wait_for("daemon_ready", count=2)
        with site.client() as client:
            assert [key.key_sha256 for key in client.keys.list() if key.name == "k"] == [
                made.key_sha256
            ]
        assert daemon.stop() == 0
    assert not site.socket.exists()
