"""Stock clients that stopped at earlier states, in temporary directories and without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from keyd.domain.rehearsal import Play, SignedFile
from keyd.domain.trust import TOP_LEVEL

_URL = "http://rehearsal.invalid/"


class _Unknown(DownloadError):
    """A client asks for a file that is published and unchanged, but not known here byte for byte.

    It has accepted everything before it then.
    """


@dataclass(frozen=True)
class Outcome:
    """How far a client came; `said` is its refusal, "" if it reached the end."""

    said: str
    holds: Mapping[str, bytes]


class _Published(FetcherInterface):
    """The repository as it will be."""

    def __init__(self, files: Mapping[str, bytes], unknown: frozenset[str]) -> None:
        self._files = files
        self._unknown = unknown

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_URL))
        if name in self._unknown:
            raise _Unknown(name)
        if name not in self._files:
            raise DownloadHTTPError(f"there is no {name}", 404)
        return iter([self._files[name]])


class _Client(Updater):
    """A stock client that can be sent to one delegated role."""

    def visit(self, file: SignedFile) -> None:
        """Load the role as a search for a target does that leads to it."""
        for parent, role in zip(file.parents, (*file.parents[1:], file.role), strict=True):
            self._load_targets(role, parent)


def served(play: Play, released: tuple[SignedFile, ...]) -> FetcherInterface:
    """The repository with these files in place of the play's."""
    files: dict[str, bytes] = {f"{number}.root.json": root for number, root in play.roots.items()}
    unknown: set[str] = set()
    for role, (version, content) in play.unchanged.items():
        name = _name(play, role, version)
        if content is None:
            unknown.add(name)
        else:
            files[name] = content
    files |= {_name(play, file.role, file.version): file.content for file in released}
    return _Published(files, frozenset(unknown))


def run(
    play: Play,
    fetcher: FetcherInterface,
    *,
    start: int,
    cached: Mapping[str, bytes],
    visits: tuple[SignedFile, ...],
) -> Outcome:
    """Let a client go from root `start` and its `cached` files as far as it gets.

    It makes every visit, whatever came of those before; `said` is the first refusal.
    """
    with tempfile.TemporaryDirectory(prefix="keyd-rehearsal-") as folder:
        home = Path(folder)
        if cached:
            asked = {*TOP_LEVEL, *(role for f in visits for role in (*f.parents, f.role))}
            _keep(home, play, start, {role: cached[role] for role in asked & cached.keys()})
        said = ""
        try:
            client = _Client(folder, _URL, fetcher=fetcher, bootstrap=play.roots[start])
            client.refresh()
            said = next(filter(None, [_visited(client, file) for file in visits]), "")
        except _Unknown:
            pass
        except (RepositoryError, DownloadError) as refusal:
            said = _words(refusal)
        return Outcome(said, _held(home))


def _visited(client: _Client, file: SignedFile) -> str:
    """What the client says against it."""
    try:
        client.visit(file)
    except _Unknown:
        return ""
    except (RepositoryError, DownloadError) as refusal:
        return _words(refusal)
    return ""


def _words(refusal: Exception) -> str:
    return f"{type(refusal).__name__}: {refusal}"


def _keep(home: Path, play: Play, start: int, cached: Mapping[str, bytes]) -> None:
    """The directory of a client that was here before (the layout of tuf.ngclient)."""
    history = home / "root_history"
    history.mkdir()
    for number, root in play.roots.items():
        if number >= start:
            (history / f"{number}.root.json").write_bytes(root)
    for role, content in cached.items():
        (home / f"{quote(role, '')}.json").write_bytes(content)


def _held(home: Path) -> Mapping[str, bytes]:
    return {unquote(path.name[:-5]): path.read_bytes() for path in home.glob("*.json")}


def _name(play: Play, role: str, version: int) -> str:
    versioned = role == "root" or (play.consistent_snapshot and role != "timestamp")
    return f"{version}.{role}.json" if versioned else f"{role}.json"
