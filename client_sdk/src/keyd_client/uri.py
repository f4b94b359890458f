"""Names of profiles and keys, and the URI ``keyd:<profile>/<key>`` made of them."""

from __future__ import annotations

import re
from typing import NamedTuple

from keyd_client.errors import UriError

SCHEME = "keyd"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class KeyUri(NamedTuple):
    """Which profile leads to the daemon, and the key's name there."""

    profile: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}:{self.profile}/{self.key}"


def valid_name(name: str) -> bool:
    """Whether `name` is 1 to 64 of a-z, 0-9, '-', '_', '.', starting with a letter or digit."""
    return _NAME.fullmatch(name) is not None


def parse(uri: str) -> KeyUri:
    """Split a URI. Touches no file. Raises: UriError (a ValueError)."""
    scheme, colon, rest = uri.partition(":")
    profile, slash, key = rest.partition("/")
    if scheme != SCHEME or not colon or not slash:
        raise UriError("URI_MALFORMED", f"{uri!r} is not of the form keyd:<profile>/<key>")
    for part in (profile, key):
        if not valid_name(part):
            raise UriError(
                "URI_MALFORMED",
                f"{part!r} in {uri!r} is no name: use 1 to 64 of a-z, 0-9, '-', '_', '.', "
                "starting with a letter or digit",
            )
    return KeyUri(profile, key)
