"""Good payloads of every kind, and ways to spoil them, for the tests of the domain."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from keyd.domain import canonical

VECTORS = Path(__file__).parents[2] / "vectors" / "payloads"
NAMES = ("root", "targets", "bins", "snapshot", "timestamp")
GOOD = {name: (VECTORS / f"{name}.json").read_bytes() for name in NAMES}


def document(name: str) -> dict[str, Any]:
    """A good payload as an object of the caller's own."""
    loaded: dict[str, Any] = json.loads(GOOD[name], strict=False)
    return loaded


def put(name: str, pointer: str, value: Any) -> bytes:
    """The canonical bytes of a good payload with the value at `pointer` set."""
    spoilt = document(name)
    parent, last = _find(spoilt, pointer)
    parent[last] = copy.deepcopy(value)
    return canonical.encode(spoilt)


def drop(name: str, pointer: str) -> bytes:
    """The canonical bytes of a good payload without the member at `pointer`."""
    spoilt = document(name)
    parent, last = _find(spoilt, pointer)
    del parent[last]
    return canonical.encode(spoilt)


def _find(target: Any, pointer: str) -> tuple[Any, Any]:
    *parents, last = (_step(step) for step in pointer.split("/")[1:])
    for step in parents:
        target = target[step]
    return target, last


def _step(step: str) -> str | int:
    return int(step) if step.isdigit() else step.replace("~1", "/").replace("~0", "~")
