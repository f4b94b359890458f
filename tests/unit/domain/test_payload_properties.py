"""Whatever arrives, the parser answers with a payload or a typed refusal, never otherwise."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain import canonical
from keyd.domain.payload import Payload, parse
from keyd.domain.strict_json import MAX_DEPTH, check_depth
from keyd.errors import InvalidRequest
from tests.unit.domain.payloads import GOOD, document

MAX_BYTES = 1_000_000
# Bytes that mean something to a JSON reader, and a few that upset one.
POINTED = b'{}[]",:\\0123456789-+.eEuntf \n\0\x7f\x80\xc3\xed\xff'


def outcome(raw: bytes) -> Payload | InvalidRequest:
    try:
        return parse(raw, max_bytes=MAX_BYTES)
    except InvalidRequest as refused:
        return refused


def assert_sound(raw: bytes) -> None:
    result = outcome(raw)
    if isinstance(result, Payload):
        assert canonical.encode(result.signed) == raw == result.raw
        return
    first = result.findings[0]
    assert first.reason == result.reason
    assert first.malformed
    for finding in result.findings:
        finding.pointer.encode()
        assert finding.message.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    assert_sound(raw)
    assert_sound(b'{"' + raw)


@given(st.sampled_from(sorted(GOOD)), st.integers(0), st.integers(0, 8), st.binary(max_size=8))
def test_a_cut_and_a_splice(name: str, start: int, length: int, new: bytes) -> None:
    raw = GOOD[name]
    start %= len(raw)
    assert_sound(raw[:start] + new + raw[start + length :])


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_pointed_byte_at_many_places(name: str) -> None:
    raw = GOOD[name]
    for place in random.Random(name).sample(range(len(raw)), 150):  # the same in every run
        for byte in POINTED:
            assert_sound(raw[:place] + bytes([byte]) + raw[place + 1 :])


@given(st.recursive(st.integers() | st.floats() | st.text(), st.lists))
def test_any_json_in_a_member_of_ones_own(value: object) -> None:
    assert_sound(json.dumps({**document("timestamp"), "x-z": value}).encode())
    assert_sound(
        json.dumps({**document("root"), "keys": value}, ensure_ascii=False).encode(
            errors="surrogatepass"
        )
    )


def depth_of(text: str) -> int:
    """The bracket depth, counted the slow and obvious way."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = not escaped and char == "\\"
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


documents = st.recursive(
    st.text(st.sampled_from('\\"[]{}a'), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.sampled_from('\\"[{'), max_size=3), inner, max_size=3)
    ),
    max_leaves=40,
)


@given(documents, st.integers(0, 40))
def test_the_depth_is_counted_outside_strings(value: object, around: int) -> None:
    text = "[" * around + json.dumps(value) + "]" * around
    if depth_of(text) <= MAX_DEPTH:
        check_depth(text.encode())
        return
    with pytest.raises(InvalidRequest) as caught:
        check_depth(text.encode())
    assert caught.value.reason == "NESTING_TOO_DEEP"


def test_every_public_sample_has_the_expected_outcome(shared_data: Path) -> None:
    files = sorted((shared_data / "tuf").rglob("*.json"))
    assert len(files) > 100
    for file in files:
        signed = json.loads(file.read_bytes())["signed"]
        result = outcome(canonical.encode(signed))
        if "notary-compat" in file.parts:
            assert isinstance(result, InvalidRequest), file
            assert result.reason == "ROLE_TYPE_UNKNOWN", file
        else:
            assert isinstance(result, Payload), (file, result)


def test_a_published_file_is_an_envelope(shared_data: Path) -> None:
    repeated = "duplicate-keyid"
    for file in sorted((shared_data / "tuf").rglob("*.json")):
        result = outcome(file.read_bytes())
        assert isinstance(result, InvalidRequest)
        expected = "DUPLICATE_MEMBER" if repeated in file.parts else "PAYLOAD_IS_ENVELOPE"
        assert result.reason == expected, file
