"""The anchor's file: what it holds after each event, what damage it recognises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.errors import BackendUnavailable, NotAllowed, StateCorrupt
from keyd.ledger import anchor as anchors
from keyd.ledger.anchor import Anchor, AnchorState
from keyd.ledger.marks import Mark

ROOTS = [bytes([n]) * 32 for n in range(10)]
FIRST = Mark("demo", "targets", 0, 1, "a" * 64)


class Seconds:
    """Monotonic time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "anchor"


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def anchor(folder: Path, seconds: Seconds) -> Iterator[Anchor]:
    opened = Anchor(folder, AnchorState("id", 1, ROOTS[1]), anchors.lock(folder), seconds)
    yield opened
    opened.close()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "anchor.jsonl").read_text().splitlines()]


def test_every_event_is_there_at_once(anchor: Anchor, folder: Path) -> None:
    anchor.record(3, ROOTS[3], [FIRST])
    anchor.record(5, ROOTS[5], [FIRST._replace(version=2)])
    anchor.record_checkpoint("note\n")
    found = anchors.load(folder)
    assert (found.ledger_id, found.size, found.root) == ("id", 5, ROOTS[5])
    assert list(found.marks) == [FIRST._replace(version=2)]
    assert found.checkpoint == "note\n"
    assert [sorted(line) for line in lines(folder)] == [
        ["anchor", "crc", "ledger"],
        ["crc", "marks", "root", "size"],
        ["crc", "marks", "root", "size"],
        ["crc", "marks", "root", "size"],
        ["checkpoint", "crc"],
    ]


def test_nothing_new_writes_nothing(anchor: Anchor, folder: Path) -> None:
    anchor.record(3, ROOTS[3], [FIRST])
    anchor.record(3, ROOTS[3], [FIRST, FIRST._replace(digest="")])
    assert len(lines(folder)) == 3


def test_marks_rise_by_epoch_and_version(anchor: Anchor, folder: Path) -> None:
    marks = [
        FIRST,
        FIRST._replace(version=9),
        FIRST._replace(version=8),
        FIRST._replace(epoch=1, version=2),
        FIRST._replace(version=10),
        FIRST._replace(epoch=1, version=2, digest="b" * 64),
        FIRST._replace(role="root", digest=""),
    ]
    for size, mark in enumerate(marks, start=2):
        anchor.record(size, ROOTS[size], [mark])
    assert set(anchors.load(folder).marks) == {
        FIRST._replace(epoch=1, version=2, digest="b" * 64),
        FIRST._replace(role="root", digest=""),
    }


def test_flushes_are_at_most_one_a_second(
    anchor: Anchor, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    real = os.fdatasync

    def counting(descriptor: int) -> None:
        flushed.append(descriptor)
        real(descriptor)

    monkeypatch.setattr("keyd.ledger.anchor.os.fdatasync", counting)
    for size in range(2, 8):
        anchor.record(size, ROOTS[size], [])
    assert flushed == []
    seconds.now += 1.0
    anchor.record(8, ROOTS[8], [])
    assert len(flushed) == 1
    anchor.sync()
    assert len(flushed) == 1
    anchor.record(9, ROOTS[9], [])
    anchor.record_checkpoint("note")
    assert len(flushed) == 2


def test_a_long_journal_is_rewritten_as_its_essence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "_REWRITE_BYTES", 1000)
    opened = Anchor(folder, AnchorState("id", 1, ROOTS[1]), anchors.lock(folder))
    for version in range(1, 100):
        opened.record(version + 1, ROOTS[1], [FIRST._replace(version=version)])
    assert (folder / "anchor.jsonl").stat().st_size < 2500
    assert list(anchors.load(folder).marks) == [FIRST._replace(version=99)]
    opened.close()
    assert sorted(path.name for path in folder.iterdir()) == ["anchor.jsonl", "anchor.lock"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_vanished_is_written_anew(anchor: Anchor, folder: Path, how: str) -> None:
    anchor.record(3, ROOTS[3], [FIRST])
    if how == "removed":
        (folder / "anchor.jsonl").unlink()
    else:
        (folder / "anchor.jsonl").rename(folder / "other")
        (folder / "anchor.jsonl").write_text("x")
    anchor.record(4, ROOTS[4], [])
    found = anchors.load(folder)
    assert (found.size, list(found.marks)) == (4, [FIRST])


def test_a_failed_write_loses_no_mark(
    anchor: Anchor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("keyd.ledger.anchor.os.write", full)
        for size in (3, 4):
            with pytest.raises(OSError, match="No space"):
                anchor.record(size, ROOTS[size], [FIRST._replace(version=size)])
    assert anchors.load(folder).size == 1
    anchor.record(5, ROOTS[5], [])
    found = anchors.load(folder)
    assert (found.size, list(found.marks)) == (5, [FIRST._replace(version=4)])


def test_a_failed_flush_makes_the_next_write_start_anew(
    anchor: Anchor, folder: Path, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    before = (folder / "anchor.jsonl").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr("keyd.ledger.anchor.os.fdatasync", broken)
        seconds.now += 5
        with pytest.raises(OSError, match="Input/output"):
            anchor.record(3, ROOTS[3], [FIRST])
    anchor.record(3, ROOTS[3], [])
    assert (folder / "anchor.jsonl").stat().st_ino != before
    assert list(anchors.load(folder).marks) == [FIRST]


def test_only_one_process_owns_an_anchor(anchor: Anchor, folder: Path) -> None:
    with pytest.raises(BackendUnavailable, match="ANCHOR_IN_USE"):
        anchors.lock(folder)


def test_a_torn_tail_is_ignored_and_damage_is_not(anchor: Anchor, folder: Path) -> None:
    for size in (3, 4, 5):
        anchor.record(size, ROOTS[size], [FIRST._replace(version=size)])
    path = folder / "anchor.jsonl"
    whole = path.read_bytes()
    start_of_last = whole[:-1].rindex(b"\n") + 1
    for end in range(start_of_last, len(whole)):
        path.write_bytes(whole[:end] + b"\0" * 20)
        assert anchors.load(folder).size in (4, 5)
    # Without the newline before it, the last line and its neighbour are one torn line.
    for position in range(start_of_last - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(StateCorrupt, match="ANCHOR_CORRUPT"):
            anchors.load(folder)
    assert start_of_last > 500
    path.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"\xff\xfe", b"[1]\n[2]\n"])
def test_what_is_no_anchor_is_damage(folder: Path, content: bytes) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "anchor.jsonl"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(StateCorrupt, match="ANCHOR_CORRUPT"):
        anchors.load(folder)


def test_others_must_not_reach_the_anchor(anchor: Anchor, folder: Path) -> None:
    (folder / "anchor.jsonl").chmod(0o640)
    with pytest.raises(NotAllowed, match="STATE_PATH_UNSAFE"):
        anchors.load(folder)
