"""A TUF repository as files: names by TUF 6.2.1, every file whole or not there at all."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from keyd_client.errors import AlreadyExists, InvalidRequest

_VERSIONED = re.compile(r"(\d+)\.(.+)\.json", re.DOTALL)
_ROOT, _TIMESTAMP = "root", "timestamp"


class RepositoryStore:
    """`directory`/metadata and `directory`/targets with consistent snapshots.

    Versioned files are never overwritten with other content but in a recovery. One process writes
    at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.metadata = directory / "metadata"
        self.targets = directory / "targets"
        for folder in (self.metadata, self.targets):
            _make_folder(folder)
        self._newest: dict[str, int] = {}
        for path in self.metadata.iterdir():
            if match := _VERSIONED.fullmatch(path.name):
                self._saw(match[2], int(match[1]))

    def read(self, role: str, version: int = 0) -> bytes | None:
        """A version of a role, 0: the newest; None if it is not there. Timestamps have only one."""
        if not version and role not in self._newest and role != _TIMESTAMP:
            return None
        try:
            return self._path(role, version or self._newest.get(role, 0)).read_bytes()
        except FileNotFoundError:
            return None

    def publish(
        self,
        files: Sequence[tuple[str, int, bytes]],
        *,
        lowered: Mapping[str, int] | None = None,
    ) -> None:
        """Publish (role, version, content) in this order, at once as far as a disk allows.

        Every file is on the disk under a temporary name before the first gets its own, so that
        clients and a crash find at most a moment between two names. Raises: AlreadyExists if a
        version has other content; then nothing is published. Roles that a recovery has `lowered`,
        which root never is, get the new content instead, and end at the versions given there:
        those above are void, and taken away before timestamp and root get their names.

        Until all is there, clients that come by the old timestamp find a lowered role's file
        missing, with another hash than they look for, or with a signature of keys that they do not
        know yet. They refuse it and keep what they have. A crash leaves them there until this is
        repeated: which files have their names already does not matter.
        """
        ends = lowered or {}
        fresh = [file for file in files if not self._is_published(*file, ends)]
        written: list[tuple[str, int, Path]] = []
        try:
            for role, version, content in fresh:
                written.append((role, version, _write_beside(self._path(role, version), content)))
            last = [file for file in written if file[0] in (_TIMESTAMP, _ROOT)]
            self._name_all(file for file in written if file not in last)
            self._withdraw_above(ends)
            self._name_all(last)
        except BaseException:
            for _, _, temporary in written:
                temporary.unlink(missing_ok=True)
            raise
        _flush(self.metadata)

    def _name_all(self, written: Iterable[tuple[str, int, Path]]) -> None:
        for role, version, temporary in written:
            _name(temporary, self._path(role, version))
            if role != _TIMESTAMP:
                self._saw(role, version)

    def _is_published(
        self, role: str, version: int, content: bytes, lowered: Collection[str]
    ) -> bool:
        """Whether the file is there. Raises: AlreadyExists if its version has other content."""
        path = self._path(role, version)
        if role == _TIMESTAMP or not path.exists():
            return False
        if path.read_bytes() != content:
            if role in lowered and role != _ROOT:
                return False
            raise AlreadyExists("FILE_EXISTS", f"{path} is published with other content: keep it")
        return True

    def _withdraw_above(self, newest: Mapping[str, int]) -> None:
        """Take away versions above these, for good when this returns. Never of root."""
        if not newest:
            return
        for path in self.metadata.iterdir():
            match = _VERSIONED.fullmatch(path.name)
            role, number = (match[2], int(match[1])) if match else ("", 0)
            if role != _ROOT and number > newest.get(role, number):
                path.unlink()
                self._newest[role] = newest[role]
        _flush(self.metadata)

    def write_target(self, path: str, sha256: str, content: bytes | Path) -> None:
        """Publish a target file (its content, or a file to copy) under its name by hash."""
        folder, _, name = path.rpartition("/")
        file = self.targets / folder / f"{sha256}.{name}"
        if not file.resolve().is_relative_to(self.targets.resolve()):
            raise InvalidRequest("TARGET_PATH_UNSAFE", f"{path!r} leads out of the repository")
        _make_folder(file.parent)
        _write(file, content)

    def _saw(self, role: str, version: int) -> None:
        self._newest[role] = max(version, self._newest.get(role, 0))

    def _path(self, role: str, version: int) -> Path:
        if not role or "/" in role or "\0" in role:
            raise InvalidRequest("ROLE_NAME_UNSAFE", f"{role!r} cannot be part of a file name")
        name = f"{role}.json" if role == _TIMESTAMP else f"{version}.{role}.json"
        return self.metadata / name


def _make_folder(folder: Path) -> None:
    """Make it and what is missing above, open to readers whatever the umask: clients read here."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    mode = folder.stat().st_mode
    # Only added to: what a group may do here is up to the folder above (setgid) and the umask.
    if mode | 0o555 != mode:
        folder.chmod(stat.S_IMODE(mode | 0o555))


def _write(path: Path, content: bytes | Path) -> None:
    """Write through a temporary file; when this returns, the file survives a power cut."""
    _name(_write_beside(path, content), path)
    _flush(path.parent)


def _name(temporary: Path, path: Path) -> None:
    """The moment from which clients see a file."""
    temporary.replace(path)


def _write_beside(path: Path, content: bytes | Path) -> Path:
    """Write a temporary file in the same folder; its content is on the disk then."""
    descriptor, temporary = tempfile.mkstemp(prefix=".keyd-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source:
                shutil.copyfileobj(source, file)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def _flush(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
