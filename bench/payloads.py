"""Targets metadata of hash bins as a package index has them (PEP 458): about 2 KB each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

BIT_LENGTH = 14
BINS = 2**BIT_LENGTH
# PEP 458 delegates every distribution file, two directories of a hash above its name.
PATHS = ("*/*/*/*",)
_FILES_PER_BIN = 9
_LIFETIME = timedelta(days=30)


def role_name(prefix: str, number: int) -> str:
    """A bin's role (TAP 15)."""
    return f"{prefix}-{number:04x}"


class Bins:
    """The first `count` bins of one delegation. Each call for a payload takes the next version."""

    def __init__(self, prefix: str, count: int, bodies: Sequence[bytes]) -> None:
        self.count = count
        self._prefix = prefix
        self._bodies = bodies
        self._versions = [0] * count

    def next(self, number: int) -> tuple[str, bytes]:
        """Role and canonical payload of a bin's next version; one thread per bin."""
        number %= self.count
        self._versions[number] += 1
        # "version" is the last member of the canonical form.
        payload = self._bodies[number] + b',"version":%d}' % self._versions[number]
        return role_name(self._prefix, number), payload


def bodies(count: int) -> list[bytes]:
    """Canonical payloads of the first `count` bins up to their version."""
    expires = (datetime.now(UTC) + _LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
    head = f'{{"_type":"targets","expires":"{expires}","spec_version":"1.0.31","targets":{{'
    return [(head + ",".join(sorted(files)) + "}").encode() for files in _files(count)]


def _files(count: int) -> list[list[str]]:
    """As many target files for every bin, each of a path that hashes into it."""
    bins: list[list[str]] = [[] for _ in range(count)]
    missing = count * _FILES_PER_BIN
    number = 0
    while missing:
        number += 1
        content = hashlib.sha256(b"%d" % number).hexdigest()
        path = f"{content[:2]}/{content[2:4]}/{content[4:]}/package-{number}.tar.gz"
        place = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
        place >>= 32 - BIT_LENGTH
        if place < count and len(bins[place]) < _FILES_PER_BIN:
            file = f'"{path}":{{"hashes":{{"sha256":"{content}"}},"length":{number}}}'
            bins[place].append(file)
            missing -= 1
    return bins
