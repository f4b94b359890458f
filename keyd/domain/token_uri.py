"""Token addresses: the part of RFC 7512 (PKCS#11 URIs) that names a token and nothing else.

Slot numbers are refused because modules hand them out anew at every start, PINs because a
configuration file is no place for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from keyd.errors import InvalidRequest

_SCHEME = "pkcs11:"
# RFC 7512, 2.3: pk11-pchar and pk11-qchar.
_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")
_TOKEN_ATTRIBUTES = ("token", "manufacturer", "serial", "model")
_REFUSED = {
    "slot-id": ("TOKEN_URI_SLOT_ID", "modules renumber slots; name the token by serial and label"),
    "pin-value": ("TOKEN_URI_PIN_VALUE", "put the PIN into a file and name it by pin-source"),
}
# CK_TOKEN_INFO pads these fields with blanks to a fixed size in bytes.
_MAX_BYTES = {"token": 32, "manufacturer": 32, "model": 16, "serial": 16}


@dataclass(frozen=True)
class TokenUri:
    """Which token is meant; None matches any. `pin_source` is an absolute path or ""."""

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    pin_source: str = ""

    def __str__(self) -> str:
        """The address without its pin-source, percent-encoded."""
        parts = (f"{name}={quote(value, safe='')}" for name, value in self.attributes().items())
        return _SCHEME + ";".join(parts)

    def attributes(self) -> dict[str, str]:
        """The attributes that are given, by their names in RFC 7512."""
        named = {name: getattr(self, name) for name in _TOKEN_ATTRIBUTES}
        return {name: value for name, value in named.items() if value is not None}


def parse_token_uri(text: str) -> TokenUri:
    """Parse a token's address, at least its label or its serial number.

    Raises: InvalidRequest with TOKEN_URI_MALFORMED, TOKEN_URI_SLOT_ID, TOKEN_URI_PIN_VALUE,
    TOKEN_URI_ATTRIBUTE (none of a token's attributes) or TOKEN_URI_VAGUE.
    """
    if not text.startswith(_SCHEME):
        raise _malformed(f"a token's address starts with {_SCHEME!r}")
    path, _, query = text.removeprefix(_SCHEME).partition("?")
    named = _attributes(path, ";", _PATH_VALUE)
    asked = _attributes(query, "&", _QUERY_VALUE)
    for name in (*named, *asked):
        if name in _REFUSED:
            raise InvalidRequest(*_REFUSED[name])
    _expect(named, _TOKEN_ATTRIBUTES)
    _expect(asked, ("pin-source",))
    for name, value in named.items():
        if not value or len(value.encode()) > _MAX_BYTES[name]:
            raise _malformed(f"{name} has 1 to {_MAX_BYTES[name]} bytes")
    if "token" not in named and "serial" not in named:
        raise InvalidRequest("TOKEN_URI_VAGUE", "name the token by token= (its label) or serial=")
    return TokenUri(**named, pin_source=_pin_source(asked.get("pin-source")))


def _attributes(text: str, separator: str, allowed: re.Pattern[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if not equals or not allowed.fullmatch(value):
            raise _malformed("attributes are name=value, values percent-encoded")
        if name in found:
            raise _malformed(f"{name} is given twice")
        try:
            found[name] = unquote_to_bytes(value).decode()
        except UnicodeDecodeError as error:
            raise _malformed(f"{name} is not UTF-8") from error
    return found


def _expect(found: dict[str, str], known: tuple[str, ...]) -> None:
    for name in found:
        if name not in known:
            raise InvalidRequest(
                "TOKEN_URI_ATTRIBUTE",
                f"{name!r} does not address a token here; use {', '.join(known)}",
            )


def _pin_source(value: str | None) -> str:
    if value is None:
        return ""
    # RFC 7512, 2.4: a file URI or a bare path; never a command ("|...").
    path = value.removeprefix("file://") if value.startswith("file:///") else value
    path = path.removeprefix("file:")
    if not path.startswith("/") or "\0" in path:
        raise _malformed("pin-source is an absolute path or a file: URI of one")
    return path


def _malformed(message: str) -> InvalidRequest:
    return InvalidRequest("TOKEN_URI_MALFORMED", message)
