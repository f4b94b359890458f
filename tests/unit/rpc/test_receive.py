"""Requests that say a thing twice, or more than keyd knows, are refused before anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.errors import InvalidRequest
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.rpc.receive import decode
from keyd_protos.v1 import keys_pb2, signing_pb2

CAP = 4096


def method(name: str = "SignMetadata") -> Method:
    service = service_of(signing_pb2.DESCRIPTOR, "SigningService")
    terms = dict.fromkeys(service.methods_by_name, Terms(lambda _call, _request: None, CAP))
    return bind(service, terms)[f"/keyd.v1.SigningService/{name}"]


def varint(number: int) -> bytes:
    """Seven bits a byte, least first."""
    head, rest = number & 0x7F, number >> 7
    return bytes([head | 0x80]) + varint(rest) if rest else bytes([head])


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field by hand."""
    return varint(number << 3 | 2) + varint(len(value)) + value


INNER = signing_pb2.MetadataToSign(
    key="root-1", repository="demo", role="root", payload=b"{}", payload_sha256=b"\0" * 32
)


def reason(data: bytes, name: str = "SignMetadata") -> str:
    with pytest.raises(InvalidRequest) as refused:
        decode(method(name), data)
    return refused.value.reason


def test_plain_request() -> None:
    wanted = signing_pb2.SignMetadataRequest(metadata=INNER, request_id="one")
    assert decode(method(), wanted.SerializeToString()) == wanted


def test_fields_in_another_order_mean_the_same() -> None:
    data = field(2, b"one") + field(1, INNER.SerializeToString())
    assert decode(method(), data) == signing_pb2.SignMetadataRequest(
        metadata=INNER, request_id="one"
    )


@pytest.mark.parametrize(
    "inner",
    [
        INNER.SerializeToString() + field(1, b"other"),
        INNER.SerializeToString() + field(5, b'{"_type":"root"}'),
        field(5, b"") + INNER.SerializeToString(),
        field(1, b"") + field(5, b"{}"),
    ],
    ids=["doubled-key", "doubled-payload", "empty-then-payload", "explicit-default"],
)
def test_doubled_or_default_scalars(inner: bytes) -> None:
    assert reason(field(1, inner)) == "REQUEST_AMBIGUOUS"


def test_a_message_in_two_parts() -> None:
    first = signing_pb2.MetadataToSign(key="a").SerializeToString()
    second = signing_pb2.MetadataToSign(payload=b"{}").SerializeToString()
    assert reason(field(1, first) + field(1, second)) == "REQUEST_AMBIGUOUS"


def test_overlong_length() -> None:
    data = varint(1 << 3 | 2) + b"\x82\x80\x00" + field(1, b"")
    assert reason(data) == "REQUEST_AMBIGUOUS"


@pytest.mark.parametrize(
    "data",
    [
        field(99, b"surprise"),
        field(1, INNER.SerializeToString() + field(99, b"surprise")),
        field(1, INNER.SerializeToString()) + varint(3 << 3) + b"\x01",
    ],
    ids=["top", "nested", "varint"],
)
def test_unknown_fields(data: bytes) -> None:
    assert reason(data) == "REQUEST_UNKNOWN_FIELD"


def test_unknown_field_in_a_batch_item() -> None:
    assert (
        reason(field(1, INNER.SerializeToString() + field(99, b"x")), "BatchSignMetadata")
        == "REQUEST_UNKNOWN_FIELD"
    )


def test_unknown_groups_150_deep() -> None:
    group_start, group_end = varint(99 << 3 | 3), varint(99 << 3 | 4)
    assert reason(group_start * 150 + group_end * 150) == "REQUEST_UNDECODABLE"


@pytest.mark.parametrize("data", [b"\x0a", b"\xff", b"\x0a\x05ab", field(2, b"\xff\xfe")])
def test_no_message(data: bytes) -> None:
    assert reason(data) == "REQUEST_UNDECODABLE"


def test_size_is_judged_before_decoding() -> None:
    padding = signing_pb2.SignMetadataRequest(request_id="x" * (CAP - 3))
    at_cap = padding.SerializeToString()
    assert len(at_cap) == CAP
    assert decode(method(), at_cap) == padding
    # One byte more, and no message at all: refused for its size, so it was not looked at.
    assert reason(b"\xff" * (CAP + 1)) == "REQUEST_TOO_LARGE"


def test_a_service_must_name_terms_for_every_method() -> None:
    service = service_of(keys_pb2.DESCRIPTOR, "KeyService")
    with pytest.raises(AssertionError, match="CreateKey"):
        bind(service, {})


@given(st.binary(max_size=200))
def test_bytes_mean_one_thing_or_nothing(data: bytes) -> None:
    """Whatever decodes serialises to the same number of bytes again."""
    try:
        message = decode(method(), data)
    except InvalidRequest:
        return
    assert len(message.SerializeToString()) == len(data)
