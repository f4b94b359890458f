"""Disks that are full, fail or vanish: typed refusals, nothing acknowledged that is not stored."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyd.domain.audit import Event
from keyd.errors import BackendUnavailable, KeydError, StateCorrupt
from keyd.ledger import database
from keyd.ledger.anchor import load
from keyd.ledger.sqlite import SqliteLedger
from tests.ledgers import Home, complete, entry, furnished, reserve, role_of, sign
from tests.tally import Promise, tallied

ROOT = Path(__file__).resolve().parents[2]

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (apt install strace)"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sign_until_refused(ledger: SqliteLedger, role: str) -> tuple[int, KeydError]:
    """Sign version after version; the last one that was acknowledged, and the refusal."""
    version = 0
    while True:
        try:
            sign(ledger, version + 1, role)
        except KeydError as error:
            return version, error
        version += 1


def check_acknowledged(ledger: SqliteLedger, role: str, last: int) -> None:
    wanted = [(role, version) for version in range(1, last + 1)]
    found = ledger.read(lambda view: view.versions("demo", wanted))
    assert [record.accepted for record in found.values()] == [True] * last


def test_a_full_disk_refuses_and_recovers_without_restart(small_disk: Path) -> None:
    with tallied(Promise.RECORDED, "the ledger's disk is full") as tally:
        ledger = furnished(small_disk)
        last, error = sign_until_refused(ledger, "targets")
        assert isinstance(error, BackendUnavailable)
        assert error.reason in ("LEDGER_DISK_FULL", "ANCHOR_WRITE_FAILED")
        assert error.retry_after_s
        assert last > 50
        with pytest.raises(BackendUnavailable):
            sign(ledger, 1, "other")
        check_acknowledged(ledger, "targets", last)
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
        sign(ledger, 1, "third")
        assert ledger.refusal() is None
        ledger.close()
        ledger = Home(small_disk).open()
        check_acknowledged(ledger, "targets", last)
        ledger.close()
        tally.injected()


def test_a_full_disk_fails_the_whole_group_and_only_it(small_disk: Path) -> None:
    ledger = furnished(small_disk)
    sign(ledger, 1)
    huge = "x" * 9_000_000
    outcomes = ledger.transact_each(
        [
            reserve(2),
            lambda tx: tx.append(entry(Event.DENIED, {"big": huge})),
        ]
    )
    assert [getattr(outcome, "reason", "") for outcome in outcomes] == ["LEDGER_DISK_FULL"] * 2
    assert role_of(ledger).high_water == 1
    sign(ledger, 2)
    ledger.close()


def test_a_file_that_may_not_grow_refuses_and_recovers(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    with limited_file_size(Home(tmp_path).database.with_name("ledger.db-wal").stat().st_size):
        last, error = sign_until_refused(ledger, "targets")
        assert isinstance(error, BackendUnavailable)
        assert error.reason in ("LEDGER_WRITE_FAILED", "LEDGER_DISK_FULL")
    check_acknowledged(ledger, "targets", last)
    sign(ledger, 1, "other")
    ledger.close()


def test_an_anchor_without_room_withholds_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = furnished(tmp_path)
    made = ledger.transact(reserve(1))
    with monkeypatch.context() as patch:

        def full(directory: Path, state: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr("keyd.ledger.anchor._write", full)
        patch.setattr("keyd.ledger.anchor.write", full)
        with pytest.raises(BackendUnavailable, match="ANCHOR_WRITE_FAILED") as caught:
            ledger.transact(complete(made))
        assert caught.value.details["outcome"] == "UNKNOWN_RECORDED"
        # Whoever asks again reads it at once: its version's mark is in the anchor since commit 1.
        assert len(ledger.read(lambda view: view.signatures(made))) == 1
        marks = [(mark.role, mark.version, mark.digest) for mark in load(tmp_path / "anchor").marks]
        assert ("targets", 1, made.digest) in marks
    sign(ledger, 2)
    assert load(Home(tmp_path).anchor).size == ledger.unsigned_checkpoint().size
    ledger.close()


# --- flushes that fail ---------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every opening of a writing connection while the test runs."""
    calls: list[Path] = []
    real = database.connect_writer

    def counting(path: Path) -> object:
        calls.append(path)
        return real(path)

    monkeypatch.setattr("keyd.ledger.writer.connect_writer", counting)
    return calls


def test_after_a_failure_the_file_is_opened_anew(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = furnished(tmp_path)
    before = len(opened)
    sign(ledger, 1)
    assert len(opened) == before
    with limited_file_size(Home(tmp_path).database.with_name("ledger.db-wal").stat().st_size):
        sign_until_refused(ledger, "other")
    sign(ledger, 2)
    assert len(opened) > before
    ledger.close()


# --- files that vanish ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal"])
@pytest.mark.parametrize(
    "attack",
    [
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("elsewhere")),
        lambda path: path.chmod(0o644),
        lambda path: Path(shutil.copy(path, path.with_name("copy"))).rename(path),
    ],
    ids=["unlinked", "renamed", "opened to others", "replaced"],
)
def test_what_happens_to_the_files_is_noticed_before_the_next_write(
    tmp_path: Path, name: str, attack: Callable[[Path], object]
) -> None:
    with tallied(Promise.STATE_GUARDED, "the ledger's files moved, replaced or opened") as tally:
        ledger = furnished(tmp_path)
        sign(ledger, 1)
        attack(Home(tmp_path).state / name)
        with pytest.raises(StateCorrupt, match="LEDGER_FILE_REPLACED"):
            sign(ledger, 2)
        ledger.close()
        tally.injected()


def test_files_open_to_others_are_not_written_until_they_are_closed_again(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    path = Home(tmp_path).database
    path.chmod(0o644)
    for reason in ("LEDGER_FILE_REPLACED", "STATE_PATH_UNSAFE", "STATE_PATH_UNSAFE"):
        with pytest.raises(KeydError, match=reason):
            sign(ledger, 1)
    path.chmod(0o600)
    sign(ledger, 1)
    ledger.close()


def test_a_database_that_is_gone_stays_refused(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    Home(tmp_path).database.unlink()
    for _ in range(3):
        with pytest.raises(StateCorrupt, match="LEDGER_FILE_REPLACED"):
            sign(ledger, 2)
    ledger.close()


@pytest.mark.parametrize("read_before", [False, True])
def test_a_wal_that_is_gone_takes_nothing_along(tmp_path: Path, read_before: bool) -> None:
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    if read_before:
        check_acknowledged(ledger, "targets", 1)
    Home(tmp_path).database.with_name("ledger.db-wal").unlink()
    with pytest.raises(StateCorrupt, match="LEDGER_FILE_REPLACED"):
        sign(ledger, 2)
    sign(ledger, 2)
    check_acknowledged(ledger, "targets", 2)
    ledger.close()
    ledger = Home(tmp_path).open()
    check_acknowledged(ledger, "targets", 2)
    ledger.close()


def test_a_file_that_comes_back_is_used_again(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    path = Home(tmp_path).database
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(KeydError):
        sign(ledger, 2)
    path.with_name("elsewhere").rename(path)
    sign(ledger, 2)
    ledger.close()


def test_an_older_file_in_its_place_is_not_written(tmp_path: Path) -> None:
    with tallied(Promise.STATE_GUARDED, "an older ledger in its place") as tally:
        ledger = furnished(tmp_path)
        path = Home(tmp_path).database
        ledger.close()
        shutil.copy(path, path.with_name("old"))
        ledger = Home(tmp_path).open()
        sign(ledger, 1)
        for part in ("", "-wal", "-shm"):
            path.with_name(path.name + part).rename(path.with_name(f"moved{part}"))
        path.with_name("old").rename(path)
        path.chmod(0o600)
        for _ in range(2):
            with pytest.raises(StateCorrupt):
                ledger.transact(reserve(1, salt="other"))
        ledger.close()
        tally.injected()


def test_a_hung_disk_refuses_within_two_seconds(tmp_path: Path) -> None:
    with tallied(Promise.RECORDED, "the ledger's disk hangs") as tally:
        ledger = furnished(tmp_path)
        ledger.close()
        ledger = Home(tmp_path).open(stall_s=1.5)
        hung, go_on = threading.Event(), threading.Event()

        def hang(_: object) -> None:
            hung.set()
            go_on.wait(60)

        stuck = threading.Thread(target=lambda: ledger.transact_each([hang]))
        stuck.start()
        assert hung.wait(30)
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(BackendUnavailable, match="LEDGER_STALLED") as caught:
                ledger.transact(reserve(1))
            assert caught.value.details["outcome"] == "NOT_STARTED"
        assert threading.active_count() <= before
        go_on.set()
        stuck.join()
        assert ledger.read(lambda view: view.role("demo", "targets")) is None
        ledger.close()
        tally.injected()


def test_an_anchor_that_hangs_between_signatures_refuses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tallied(Promise.RECORDED, "the anchor's disk hangs") as tally:
        ledger = furnished(tmp_path)
        ledger.close()
        ledger = Home(tmp_path).open(stall_s=1.5)
        hung, go_on = threading.Event(), threading.Event()
        flush = os.fdatasync

        def hang(descriptor: int) -> None:
            hung.set()
            go_on.wait(60)
            flush(descriptor)

        sign(ledger, 1)
        monkeypatch.setattr(os, "fdatasync", hang)
        assert hung.wait(30)
        with pytest.raises(BackendUnavailable, match="LEDGER_STALLED") as caught:
            ledger.transact(reserve(2))
        assert caught.value.details["outcome"] == "NOT_STARTED"
        go_on.set()
        monkeypatch.undo()
        sign_when_answered(ledger, 2)
        check_acknowledged(ledger, "targets", 2)
        ledger.close()
        tally.injected()


def sign_when_answered(ledger: SqliteLedger, version: int) -> None:
    while True:
        try:
            sign(ledger, version)
        except BackendUnavailable:
            threading.Event().wait(0.05)
        else:
            return
