"""Canonical JSON four ways: keyd, securesystemslib, a writer and a checker of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from keyd.domain import canonical
from keyd.errors import InvalidRequest
from tests.fuzz.canonical_form import Documents, is_canonical, written
from tests.fuzz.targets import outcome

_QUICK = 4_000
_SHARDS, _PER_SHARD = 4, 250_000

texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def compare(value: Any) -> bool:
    """Whether the value has a canonical form; all must agree on it, and read it back."""
    expected = written(value)
    raw = outcome(InvalidRequest, canonical.encode, value)
    if isinstance(raw, InvalidRequest):
        assert raw.reason == "NOT_CANONICAL"
        assert not is_unicode(expected)
        return False
    text = raw.decode()
    assert text == expected
    assert text == encode_canonical(value)
    assert is_canonical(text)
    again = json.loads(text, strict=False)
    assert again == value
    assert canonical.encode(again) == raw
    return True


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def compare_many(seed: int, count: int) -> None:
    documents = Documents(seed)
    refused = count - sum(compare(documents.next()) for _ in range(count))
    assert 0 < refused < count / 20


@given(values)
def test_documents_of_hypothesis(value: Any) -> None:
    compare(value)


def test_documents_by_chance() -> None:
    compare_many(0, _QUICK)


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize("seed", range(1, _SHARDS + 1))
def test_a_million_documents(seed: int) -> None:
    compare_many(seed, _PER_SHARD)


@pytest.mark.parametrize(
    "text",
    [
        " {}", "{} ", '{"a": 1}', '{"b":1,"a":1}', '{"a":1,"a":1}', "01", "-0", "1.0", "1e2", "NaN",
        '"\\n"', '"\\u0041"', '"\\/"', "[1,]", "", '{"\ue000":1,"\U00010000":1,"\ud7ff":1}',
    ],
)  # fmt: skip
def test_the_checker_refuses(text: str) -> None:
    assert not is_canonical(text)


@pytest.mark.parametrize(
    "text", ["{}", "-1", '"\n\\\\\\""', '{"":[null,true],"\ue000":0,"\U00010000":1}']
)
def test_the_checker_accepts(text: str) -> None:
    assert is_canonical(text)
