"""A mutator that knows JSON: it bends values and members, and keeps the text canonical.

Bytes changed at random are hardly ever canonical, and so never get past a strict parser's first
gates. `mutate` changes the document instead, most of the time.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable
from typing import Any

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

_STRINGS = (
    "", "root", "targets", "snapshot", "timestamp", "mirrors", "Root", "_type", "signed", "a/*",
    "1.0.31", "1.0", "2.0.0", "2030-06-02T00:00:00Z", "2030-02-29T00:00:00Z",
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2030-6-2T0:0:0Z", "ed25519", "ecdsa", "rsa",
    "rsassa-pss-sha256", "ecdsa-sha2-nistp256", "sha256", "sha512", "md5", "00" * 32, "AB" * 32,
    "é", "e\u0301", "\n", "\u2028", "\U0001f37a", "x-", "x-y", "[z-a]*", "../../a", "a" * 256,
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 32, 33, 2**31 - 1, 2**31, 2**32, 2**53 - 1, -(2**53) + 1, 2**53, 2**64)
_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}}, *_STRINGS, *_NUMBERS)
_MEMBERS = (
    "_type", "version", "expires", "spec_version", "keys", "roles", "keyids", "threshold", "keyval",
    "public", "private", "keytype", "scheme", "targets", "delegations", "succinct_roles", "paths",
    "path_hash_prefixes", "terminating", "name", "name_prefix", "bit_length", "custom", "hashes",
    "length", "meta", "consistent_snapshot", "keyid_hash_algorithms", "x-note", "signed",
    "signatures", "keyid", "sig",
)  # fmt: skip


def mutate(data: bytes, max_size: int, seed: int, *, canonical: bool = True) -> bytes:
    """Bend the document in `data` once or a few times; `data` itself if that cannot be done."""
    chance = random.Random(seed)
    try:
        document = json.loads(data, strict=False)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            document = _bent(document, chance)
        text = encode_canonical(document) if canonical else json.dumps(document, ensure_ascii=False)
    except (ValueError, RecursionError, FormatError):
        # No JSON, or with numbers that have no canonical form.
        return data
    return (text or "").encode(errors="surrogatepass")[:max_size]


def _bent(document: Any, chance: random.Random) -> Any:
    """The document with one of its values changed."""
    places = list(_places(document))
    if not places:
        return chance.choice(_VALUES)
    parent, key = chance.choice(places)
    chance.choice(_BENDS)(parent, key, chance)
    return document


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, member name or index) in a document."""
    keys: Iterable[Any] = ()
    if isinstance(value, dict):
        keys = value
    elif isinstance(value, list):
        keys = range(len(value))
    found = [(value, key) for key in keys]
    return found + [place for _, key in found for place in _places(value[key])]


def _replace(parent: Any, key: Any, chance: random.Random) -> None:
    parent[key] = copy.deepcopy(chance.choice(_VALUES))


def _nudge(parent: Any, key: Any, chance: random.Random) -> None:
    value = parent[key]
    if isinstance(value, bool):
        parent[key] = not value
    elif isinstance(value, int):
        parent[key] = value + chance.choice((-1, 1))
    elif isinstance(value, str) and value:
        at = chance.randrange(len(value))
        parent[key] = value[:at] + chr(chance.randrange(1, 0x180)) + value[at + 1 :]
    else:
        _replace(parent, key, chance)


def _drop(parent: Any, key: Any, chance: random.Random) -> None:
    del parent[key]


def _copy(parent: Any, key: Any, chance: random.Random) -> None:
    """Repeat a value: under another name, or once more in its list."""
    value = copy.deepcopy(parent[key])
    if isinstance(parent, list):
        parent.insert(key, value)
    else:
        parent[chance.choice((*_MEMBERS, *_STRINGS, f"{key}x"))] = value


def _add(parent: Any, key: Any, chance: random.Random) -> None:
    value = copy.deepcopy(chance.choice(_VALUES))
    inner = parent[key]
    if isinstance(inner, dict):
        inner[chance.choice((*_MEMBERS, *_STRINGS))] = value
    elif isinstance(inner, list):
        inner.append(value)
    else:
        parent[key] = value


_BENDS: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    _replace,
    _nudge,
    _nudge,
    _drop,
    _copy,
    _add,
)
