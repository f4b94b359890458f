"""Whether a path leads where its owner meant it to, or where somebody else may make it lead."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_LINKS_MAX = 40  # as in path_resolution(7)


def objection(path: Path) -> str:
    """What speaks against the content of an absolute path, "" if only root and we decide it.

    Every directory and link on the way is judged, not only those of the path as it is written: who
    can replace one of them decides what is read. Names the place and how to mend it.
    """
    try:
        return next((why for place, found in _way(path) if (why := _judge(place, found))), "")
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def file_objection(path: Path) -> str:
    """`objection`, for what must be a regular file."""
    if why := objection(path):
        return why
    return "" if path.is_file() else f"{path} is no regular file"


def is_private(path: Path) -> bool:
    """Whether a file's mode keeps its content from others. Raises: OSError."""
    found = path.stat()
    # Root may share what it owns with the group that keyd runs in.
    shared = stat.S_IRGRP if found.st_uid == 0 else 0
    return not found.st_mode & 0o077 & ~shared


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The places that the kernel passes through, links and their targets included."""
    here, ahead, links = Path("/"), deque(path.parts[1:]), 0
    yield here, here.lstat()
    while ahead:
        name = ahead.popleft()
        if name == "..":
            here = here.parent
            continue
        place = here / name
        found = place.lstat()
        yield place, found
        if not stat.S_ISLNK(found.st_mode):
            here = place
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(None, "too many links")
        target = place.readlink()
        if target.is_absolute():
            here = Path("/")
        ahead.extendleft(reversed([part for part in target.parts if part != "/"]))


def _judge(place: Path, found: os.stat_result) -> str:
    if found.st_uid not in {0, os.geteuid()}:
        return (
            f"{place} belongs to uid {found.st_uid}; it must belong to root or to keyd's user "
            "(type: chown)"
        )
    if stat.S_ISLNK(found.st_mode):
        return ""  # a link's own mode says nothing
    # Nobody can replace what is ours in a sticky directory such as /tmp.
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & 0o022 and not sticky:
        mode = stat.S_IMODE(found.st_mode)
        return f"{place} has mode {mode:04o}, so others can write it; type: chmod go-w {place}"
    return ""
