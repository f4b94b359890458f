"""Token addresses: what is read names the same token when written again, and never tells a PIN."""

from __future__ import annotations

from keyd.domain.token_uri import parse_token_uri
from keyd.errors import InvalidRequest
from tests.fuzz.targets import outcome

DICTIONARY = "uri.dict"
_REASONS = {
    "TOKEN_URI_MALFORMED",
    "TOKEN_URI_SLOT_ID",
    "TOKEN_URI_PIN_VALUE",
    "TOKEN_URI_ATTRIBUTE",
    "TOKEN_URI_VAGUE",
}


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    found = outcome(InvalidRequest, parse_token_uri, text)
    if isinstance(found, InvalidRequest):
        assert found.reason in _REASONS
        return
    assert found.token or found.serial
    assert all(found.attributes().values())
    assert not found.pin_source or found.pin_source.startswith("/")
    again = parse_token_uri(str(found))
    assert again.attributes() == found.attributes()
    assert "pin" not in str(found).partition("?")[2]
