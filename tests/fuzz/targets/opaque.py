"""The guard of opaque keys: whatever anybody could read as TUF metadata is recognised."""

from __future__ import annotations

from tuf.api.exceptions import RepositoryError

from keyd.domain.metadata_file import read
from keyd.domain.opaque import looks_like_tuf
from keyd.domain.payload import parse
from keyd.errors import InvalidRequest
from tests.fuzz import json_mutator
from tests.fuzz.targets import outcome
from tests.fuzz.targets.payload import python_tuf

DICTIONARY = "json.dict"
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return json_mutator.mutate(data, max_size, seed, canonical=seed % 2 == 0)


def check(data: bytes) -> None:
    readings: dict[str, object] = {
        "payload": outcome(InvalidRequest, parse, data, max_bytes=len(data)),
        "file": outcome(InvalidRequest, read, data),
        "python-tuf": outcome(RepositoryError, python_tuf, data),
    }
    readers = [name for name, found in readings.items() if not isinstance(found, Exception)]
    assert looks_like_tuf(data) or not readers, readers
    if readers:
        text = data.decode()
        for encoding in _ENCODINGS:
            assert looks_like_tuf(text.encode(encoding)), encoding
        assert looks_like_tuf(b"DSSEv1 4 none %d %s" % (len(data), data))
