"""Addresses of tokens: RFC 7512 without what names slots, objects or PINs."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain.token_uri import TokenUri, parse_token_uri
from keyd.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:token=root-1", TokenUri(token="root-1")),
        ("pkcs11:serial=0123", TokenUri(serial="0123")),
        (
            "pkcs11:token=Software%20Token;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=7",
            TokenUri("Software Token", "7", "Snake Oil, Inc.", "1.0"),
        ),
        ("pkcs11:token=%C3%BC", TokenUri(token="ü")),
        ("pkcs11:token=a?pin-source=/run/pin", TokenUri("a", pin_source="/run/pin")),
        ("pkcs11:token=a?pin-source=file:/run/pin", TokenUri("a", pin_source="/run/pin")),
        ("pkcs11:token=a?pin-source=file:///run/pin", TokenUri("a", pin_source="/run/pin")),
    ],
)
def test_addresses(text: str, expected: TokenUri) -> None:
    assert parse_token_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "TOKEN_URI_MALFORMED"),
        ("token=a", "TOKEN_URI_MALFORMED"),
        ("PKCS11:token=a", "TOKEN_URI_MALFORMED"),
        ("pkcs11:", "TOKEN_URI_VAGUE"),
        ("pkcs11:manufacturer=a;model=b", "TOKEN_URI_VAGUE"),
        ("pkcs11:token=a;token=a", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a;serial=", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a;", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a b", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=%zz", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=%ff", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a\n", "TOKEN_URI_MALFORMED"),
        (f"pkcs11:token={'a' * 33}", "TOKEN_URI_MALFORMED"),
        (f"pkcs11:serial={'a' * 17}", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a;slot-id=3", "TOKEN_URI_SLOT_ID"),
        ("pkcs11:slot-id=3", "TOKEN_URI_SLOT_ID"),
        ("pkcs11:token=a?pin-value=1234", "TOKEN_URI_PIN_VALUE"),
        ("pkcs11:token=a;pin-value=1234", "TOKEN_URI_PIN_VALUE"),
        ("pkcs11:token=a;object=key", "TOKEN_URI_ATTRIBUTE"),
        ("pkcs11:token=a;id=%01", "TOKEN_URI_ATTRIBUTE"),
        ("pkcs11:token=a;Token=b", "TOKEN_URI_ATTRIBUTE"),
        ("pkcs11:token=a;x-vendor=b", "TOKEN_URI_ATTRIBUTE"),
        ("pkcs11:token=a?module-path=/lib/x.so", "TOKEN_URI_ATTRIBUTE"),
        ("pkcs11:token=a?pin-source=|/bin/echo", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a?pin-source=pin", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a?pin-source=https://example.org/pin", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a?pin-source=/run/pin&pin-source=/run/pin", "TOKEN_URI_MALFORMED"),
        ("pkcs11:token=a?pin-source=/run/%00", "TOKEN_URI_MALFORMED"),
    ],
)
def test_refused_addresses(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_token_uri(text)
    assert refused.value.reason == reason
    assert "1234" not in refused.value.message


def field(size: int) -> st.SearchStrategy[str]:
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=size)
    return text.filter(lambda value: len(value.encode()) <= size)


@given(token=field(32), serial=field(16), manufacturer=st.none() | field(32))
def test_printed_addresses_are_read_back(token: str, serial: str, manufacturer: str | None) -> None:
    uri = TokenUri(token, serial, manufacturer)
    assert parse_token_uri(str(uri)) == uri


@given(st.text(max_size=60))
def test_no_text_escapes_the_typed_refusal(text: str) -> None:
    with suppress(InvalidRequest):
        parse_token_uri("pkcs11:" + text)
