"""One canonicaliser: the same bytes as securesystemslib, and the parser reads them back."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from keyd.domain import canonical
from keyd.domain.payload import parse
from keyd.domain.strict_json import MAX_INTEGER
from keyd.errors import InvalidRequest
from tests.unit.domain.payloads import document

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)

plain_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20).map(
    lambda text: unicodedata.normalize("NFC", text)
)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | plain_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_texts, inner, max_size=4),
    max_leaves=20,
)
hashes = st.dictionaries(plain_texts, plain_texts, max_size=2)
own_members = st.dictionaries(plain_texts.map(lambda text: "x-" + text), plain_values, max_size=3)
targets = st.builds(
    lambda length, hashes, custom, own: {**own, "length": length, "hashes": hashes, **custom},
    st.integers(-MAX_INTEGER, MAX_INTEGER),
    hashes,
    st.just({})
    | st.dictionaries(plain_texts, plain_values, max_size=3).map(lambda value: {"custom": value}),
    own_members,
)


@given(values)
def test_same_bytes_as_securesystemslib(value: Any) -> None:
    expected = encode_canonical(value)
    assert expected is not None
    assert canonical.encode(value) == expected.encode()


@given(st.dictionaries(plain_texts, targets, max_size=4), own_members)
def test_the_parser_reads_back_what_was_written(files: dict[str, Any], own: dict[str, Any]) -> None:
    written = {**own, **document("targets"), "targets": files}
    raw = canonical.encode(written)
    payload = parse(raw, max_bytes=len(raw))
    assert payload.raw == raw
    assert payload.signed == written


@pytest.mark.parametrize("value", [1.0, b"", {1: 2}, {"a": [object()]}, "\ud800"])
def test_refuses_what_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        canonical.encode(value)
    assert caught.value.reason == "NOT_CANONICAL"


@given(values)
def test_what_is_canonical_is_what_would_be_written(value: Any) -> None:
    raw = canonical.encode(value)
    assert canonical.is_canonical(raw, value)
    assert not canonical.is_canonical(raw + b" ", value)
    spelt = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert canonical.is_canonical(spelt, value) == (spelt == raw)


@pytest.mark.parametrize("escape", [r"\n", r"\u0041", r"\u0000", r"\/", r"\t", r"\ud800"])
def test_needless_escapes_are_not_canonical(escape: str) -> None:
    raw = f'{{"a":"{escape}"}}'.encode()
    assert not canonical.is_canonical(raw, json.loads(raw))
