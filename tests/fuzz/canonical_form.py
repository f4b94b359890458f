"""Canonical JSON once more, written from the rules of OLPC and TUF 4.1 and from no other code.

Members sorted by code point, no white space, integers in decimal, strings in UTF-8 with nothing
escaped but quotation marks and backslashes.
"""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from typing import Any

_TOKENS = re.compile(
    r'(?:"(?:[^"\\]|\\["\\])*"|0|-?[1-9][0-9]*|true|false|null|[][{}:,])*', re.DOTALL
)
_WORDS = {None: "null", True: "true", False: "false"}
_ALPHABET = (
    *"abcXYZ019 _-./", '"', "\\", "\\u0041", "\n", "\x00", "\x1f", "\x7f", "\x9b", "é", "e\u0301",
    "\u2028", "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0001f37a", "\U0010ffff",
)  # fmt: skip
_SURROGATE = "\ud800"
_EDGES = (0, 1, 9, 10, 2**31, 2**53 - 1, 2**53, 2**64, 10**40)


def written(value: Any) -> str:
    """The canonical text of a value."""
    if isinstance(value, dict):
        members = (f"{_quoted(name)}:{written(value[name])}" for name in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_canonical(text: str) -> bool:
    """Whether a text is in canonical form, judged without writing it anew."""
    if not _TOKENS.fullmatch(text):
        return False
    try:
        json.loads(text, strict=False, object_pairs_hook=_in_order)
    except ValueError:
        return False
    return True


def _in_order(members: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in members]
    if any(a >= b for a, b in pairwise(names)):
        raise ValueError(names)


class Documents:
    """Documents by chance, the same for the same seed; one in hundreds has no canonical form."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def next(self) -> dict[str, Any]:
        return {self._text(): self._value(0) for _ in range(self._below(5))}

    def _below(self, limit: int) -> int:
        return int(self._chance.random() * limit)

    def _value(self, depth: int) -> Any:
        kind = self._below(8 if depth < 4 else 5)
        if kind < 2:
            return self._text()
        if kind < 4:
            return self._number()
        if kind == 4:
            return (None, True, False)[self._below(3)]
        if kind == 5:
            return [self._value(depth + 1) for _ in range(self._below(4))]
        return {self._text(): self._value(depth + 1) for _ in range(self._below(4))}

    def _number(self) -> int:
        number = _EDGES[self._below(len(_EDGES))] if self._below(2) else self._below(1000)
        return number if self._below(2) else -number

    def _text(self) -> str:
        if not self._below(2000):
            return _SURROGATE
        size = len(_ALPHABET)
        return "".join([_ALPHABET[self._below(size)] for _ in range(self._below(8))])
