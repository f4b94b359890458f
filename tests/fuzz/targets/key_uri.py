"""The SDK's key URIs: read back as they were written, or a typed error."""

from __future__ import annotations

from keyd_client import uri
from keyd_client.errors import UriError
from tests.fuzz.targets import outcome

DICTIONARY = "uri.dict"


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    found = outcome(UriError, uri.parse, text)
    if isinstance(found, UriError):
        assert found.reason == "URI_MALFORMED"
        return
    assert str(found) == text
    assert uri.valid_name(found.profile)
    assert uri.valid_name(found.key)
