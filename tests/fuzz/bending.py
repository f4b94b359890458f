"""Inputs made of a target's corpus by chance, for test runs that have no fuzzing engine."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.fuzz.targets import Target


def bent_inputs(target: Target, count: int, seed: str) -> Iterator[bytes]:
    """The same inputs for the same corpus and seed."""
    chance = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(target.corpus.iterdir())]
    words = words_of(target.dictionary)
    return islice(_bent(target, chance, corpus, words), count)


def words_of(dictionary: Path) -> list[bytes]:
    """The words of a libFuzzer dictionary. Raises: SyntaxError, ValueError if it is none."""
    lines = dictionary.read_text("ascii").splitlines()
    words = [ast.literal_eval("b" + line) for line in lines if not line.startswith("#")]
    assert all(isinstance(word, bytes) and word for word in words)
    return words


def _bent(
    target: Target, chance: random.Random, corpus: list[bytes], words: list[bytes]
) -> Iterator[bytes]:
    while True:
        data = chance.choice(corpus)
        for _ in range(chance.choice((1, 1, 2, 4))):
            if target.mutate is not None and chance.random() < 0.7:
                data = target.mutate(data, 10_000, chance.randrange(1 << 30))
            else:
                data = _spliced(data, chance, corpus, words)
        yield data


def _spliced(data: bytes, chance: random.Random, corpus: list[bytes], words: list[bytes]) -> bytes:
    """A cut somewhere, and something else in its place."""
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((0, 0, 1, 1, 4, 64)))
    other = chance.choice(corpus)
    from_other = chance.randrange(len(other) + 1)
    new = chance.choice(
        (
            b"",
            chance.randbytes(1),
            chance.randbytes(4),
            chance.choice(words),
            data[start:end] * 2,
            other[from_other : from_other + chance.randrange(64)],
        )
    )
    return data[:start] + new + data[end:]
