"""The token's own disk is full: keys sign on, no key is made, and nothing half-made is left (B4).

An operator sees the creation refused with TOKEN_FAILED (the token's own FunctionFailed), and frees
space; no restart is needed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from keyd_client import Client
from keyd_client.errors import KeydClientError
from tests.daemon import TOKEN, Installation
from tests.recording import check_disk, check_entries, check_receipts, entries_of
from tests.tally import Promise, tallied


@pytest.fixture
def small_token_disk(installation: Installation) -> Iterator[Installation]:
    """An installation whose token lies on a file system of 2 MB."""
    tokens = installation.softhsm / "tokens"
    kept = tokens.with_name("kept")
    shutil.copytree(tokens, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(tokens)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    shutil.copytree(kept, tokens, dirs_exist_ok=True)
    yield installation
    subprocess.run(["umount", "--lazy", str(tokens)], check=True)


def test_a_full_token_signs_and_makes_no_key(small_token_disk: Installation) -> None:
    installation = small_token_disk
    filler = installation.softhsm / "tokens" / "filler"
    with (
        tallied(Promise.NO_INTERNAL, "the token's disk is full") as tally,
        installation.serve() as daemon,
        installation.client() as client,
    ):
        daemon.wait_for("daemon_ready")
        recorder = installation.recorder()
        recorder.sign("timestamp", "timestamp", recorder.writer.timestamp(2))
        before = on_token(client)
        fill(filler)
        with pytest.raises(KeydClientError) as refused:  # the SDK tries for ten seconds
            client.keys.create("late", TOKEN, content="opaque", request_id="r-1")
        assert refused.value.reason == "TOKEN_FAILED", refused.value
        tally.injected()
        recorder.sign("timestamp", "timestamp", recorder.writer.timestamp(3))
        assert "late" not in {key.name for key in client.keys.list()}
        assert on_token(client) == before
        filler.unlink()
        client.keys.create("late", TOKEN, content="opaque", request_id="r-2")
        assert client.sign_opaque("late", b"there is room again").signature
        check_receipts(client, recorder.receipts)
        check_entries(entries_of(client), recorder.receipts)
        assert daemon.stop() == 0
    check_disk(installation.ledger, installation.anchor)


def fill(path: Path) -> None:
    """Write until there is no room for a single byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert shutil.disk_usage(path.parent).free == 0


def on_token(client: Client) -> set[bytes]:
    return {key.key_sha256 for key in client.tokens.keys(TOKEN)}
