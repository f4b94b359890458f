"""What a disk may hold after a power loss: a file's unflushed writes are there, torn or lost.

Names are another matter than contents: a new, renamed or removed name lasts once the *directory*
was flushed; before that, a file system with a journal keeps some first part of the changes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from tests.faults.disk_recording import Kind, Step

_SECTOR = 512
# SQLite makes the wal-index anew after a crash, whatever it holds.
_FORGOTTEN = "-shm"


@dataclass
class _File:
    """What is surely on the medium, and what was done to the file since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Step] = field(default_factory=list)
    covered: int = 0  # how much of `pending` the flush under way makes durable

    size: int = 0  # as programs see it

    def seen(self, step: Step) -> Step:
        """The step with its place: bytes at the end stay there when those before them are lost."""
        if step.kind is Kind.TRUNCATE:
            self.size = step.place or 0
            return step
        placed = replace(step, place=self.size if step.place is None else step.place)
        self.size = max(self.size, (placed.place or 0) + len(step.data))
        return placed

    def flush(self) -> None:
        for step in self.pending[: self.covered]:
            _apply(self.durable, step, step.data)
        self.pending = self.pending[self.covered :]
        self.covered = 0

    def after_power_loss(self, dice: random.Random, kept: float) -> bytes:
        content = bytearray(self.durable)
        for step in self.pending:
            if dice.random() < kept:
                _apply(content, step, step.data)
            elif len(step.data) > _SECTOR and dice.random() < 0.3:
                _apply(content, step, step.data[: _SECTOR * dice.randrange(len(step.data) >> 9)])
        return bytes(content)


def _apply(content: bytearray, step: Step, data: bytes) -> None:
    if step.kind is Kind.TRUNCATE:
        assert step.place is not None
        del content[step.place :]
        content.extend(bytes(step.place - len(content)))
        return
    place = step.place or 0
    content.extend(bytes(max(0, place - len(content))))
    content[place : place + len(data)] = data


Names = dict[str, _File]


@dataclass
class Disk:
    """The files below a directory, as its programs see them and as they would be found."""

    names: Names
    durable_names: Names
    renaming: dict[str, list[tuple[Step, _File | None]]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Path) -> Disk:
        """Begin with what lies there, all of it flushed."""
        names = {
            str(path.relative_to(base)): _File(
                bytearray(path.read_bytes()), size=path.stat().st_size
            )
            for path in base.rglob("*")
            if path.is_file() and not path.name.endswith(_FORGOTTEN)
        }
        return cls(names, dict(names))

    def take(self, step: Step) -> None:
        """Let one step happen."""
        if step.path.endswith(_FORGOTTEN):
            return
        if step.kind in (Kind.CREATE, Kind.RENAME, Kind.UNLINK):
            self._rename(step)
        elif step.kind in (Kind.FLUSH_BEGINS, Kind.FLUSHED) and step.path not in self.names:
            if step.kind is Kind.FLUSHED:
                for change in self.renaming.pop(step.path, []):
                    _rename(self.durable_names, *change)
        elif step.path in self.names:  # others were removed while open
            self._write(self.names[step.path], step)

    def _rename(self, step: Step) -> None:
        if step.kind is Kind.CREATE and step.path in self.names:
            return
        made = self.names[step.path] if step.kind is Kind.RENAME else _File()
        _rename(self.names, step, made)
        folder = str(PurePosixPath(step.path).parent)
        self.renaming.setdefault(folder, []).append((step, made))

    def _write(self, file: _File, step: Step) -> None:
        if step.kind is Kind.FLUSH_BEGINS:
            file.covered = len(file.pending)
        elif step.kind is Kind.FLUSHED:
            file.flush()
        else:
            file.pending.append(file.seen(step))

    def after_power_loss(self, dice: random.Random, kept: float) -> dict[str, bytes]:
        """Names and contents as they may be found; `kept`: an unflushed write's chance."""
        names = dict(self.durable_names)
        for changes in self.renaming.values():
            first = dice.choice([0, len(changes), dice.randint(0, len(changes))])
            for change in changes[:first]:
                _rename(names, *change)
        return {name: file.after_power_loss(dice, kept) for name, file in names.items()}


def _rename(names: Names, step: Step, file: _File | None) -> None:
    if step.kind is Kind.UNLINK:
        names.pop(step.path, None)
        return
    assert file is not None
    names.pop(step.path, None)
    names[step.new_path or step.path] = file


@dataclass(frozen=True)
class State:
    """A disk after a power loss, and what the program had been told by then."""

    number: int
    after: int
    files: dict[str, bytes]
    told: bytes

    def write_to(self, base: Path) -> None:
        """Put the files there, for this user alone."""
        for name, content in self.files.items():
            path = base / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)


def states(disk: Disk, steps: Sequence[Step], count: int, seed: str) -> Iterator[State]:
    """Power losses after so many random steps. `disk` is used up."""
    dice = random.Random(seed)
    places = sorted(dice.randint(1, len(steps)) for _ in range(count))
    told, done = bytearray(), 0
    for number, place in enumerate(places):
        for step in steps[done:place]:
            if step.kind is Kind.TOLD:
                told += step.data
            else:
                disk.take(step)
        done = place
        kept = dice.choice([0.0, 0.5, 0.9, 1.0])
        yield State(number, place, disk.after_power_loss(dice, kept), bytes(told))
