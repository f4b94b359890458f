"""The PGP word list against examples that others published."""

from __future__ import annotations

from itertools import pairwise

import pytest

from keyd.domain.digest_words import digest_words


@pytest.mark.parametrize(
    ("digest", "words"),
    [
        (
            "E58294F2E9A227486E8B061B31CC528FD7FA3F19",
            (
                "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator "
                "goldfish Medusa afflict bravado chatter revolver Dupont midsummer "
                "stopwatch whimsical cowbell bottomless"
            ),
        ),
        ("D60350B1", "stockman aggregate drumbeat photograph"),
        ("", ""),
    ],
)
def test_published_examples(digest: str, words: str) -> None:
    assert " ".join(digest_words(bytes.fromhex(digest))) == words


def test_every_byte_has_a_word_of_its_own_at_even_and_odd_places() -> None:
    pairs = [digest_words(bytes([byte, byte])) for byte in range(256)]
    even, odd = zip(*pairs, strict=True)
    assert len({*even, *odd}) == 512
    for words in (even, odd):
        out_of_order = [pair for pair in pairwise(words) if pair[0].lower() > pair[1].lower()]
        assert out_of_order in ([], [("applicant", "Apollo")])  # as published
