"""The demo ends well, ends badly when it must, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from demo import __main__ as demo
from demo.daemon import ROOT, Place, SetUpFailed

COMMAND = [sys.executable, "-m", "demo"]


def environment(temporary: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(temporary)}


def processes_of(directory: Path) -> list[str]:
    """Command lines of running processes that mention the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue  # ended meanwhile
        if os.fsencode(directory) in command:
            found.append(command.decode())
    return found


def test_the_demo_shows_everything_and_ends_with_ok(socket_dir: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment(socket_dir),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1].startswith("demo: ok")
    for fact in (
        "pkcs11:token=demo;serial=",
        "1.root.json: 3 signatures",
        "all 7 published signatures stand in keyd's audit log",
        "hello.txt: b'signed by a token\\n'",
        "team/tool.txt: b'delegated\\n'",
        "forged targets refused: SIGNATURES_MISSING",
        "forged timestamp refused: UnsignedMetadataError",
        "rolled-back snapshot refused: SNAPSHOT_ENTRY_DECREASED",
        "double version refused: VERSION_ALREADY_SIGNED_DIFFERENTLY",
    ):
        assert fact in done.stdout
    assert not list(socket_dir.iterdir())
    assert not processes_of(socket_dir)


@pytest.mark.slow(seconds=90)
@pytest.mark.timeout(300)
def test_the_rotations_show_everything_and_end_with_ok(socket_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo.rotation"],
        cwd=ROOT,
        env=environment(socket_dir),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1].startswith("demo-rotation: ok (25 rotations")
    for fact in (
        "stock clients that stopped at earlier states caught up",
        "asked to sign once more: QUORUM_UNAVAILABLE",
        "approved by alice and bob: start the rotation of demo",
        "approved by bob and carol: sign demo/root version",
        "handed in, counted",
        "one signature short of the 3 by root:25 is refused",
        "a root that thieves can sign as well: ROOT_THRESHOLD_COMPROMISED",
    ):
        assert fact in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(socket_dir: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment(socket_dir), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3."):
                break
        assert processes_of(socket_dir)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(60) == 130
    assert not list(socket_dir.iterdir())
    assert not processes_of(socket_dir)


def test_a_demo_that_cannot_start_says_why_and_fails(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_softhsm(place: Place) -> str:
        raise SetUpFailed("init.sh: SoftHSM is not installed")

    monkeypatch.setattr(demo, "make_token", no_softhsm)
    monkeypatch.setattr(tempfile, "tempdir", str(socket_dir))
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert demo.main() == 1
    finally:
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)
    assert "demo: failed: init.sh: SoftHSM is not installed" in capsys.readouterr().err
    assert not list(socket_dir.iterdir())
