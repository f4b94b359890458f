"""Client SDK of keyd: a securesystemslib signer and the client of the keyd API.

Importing this package reads no file and loads neither gRPC nor tuf; the names below are resolved
when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyd_client.client import Client as Client
    from keyd_client.errors import KeydClientError as KeydClientError
    from keyd_client.profile import Profile as Profile

__version__ = "0.1.0"

_HOME = {
    "Client": "client",
    "KeydClientError": "errors",
    "Profile": "profile",
}
__all__ = ["Client", "KeydClientError", "Profile"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
