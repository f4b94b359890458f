"""Client SDK of keyd: a securesystemslib signer and the client of the keyd API.

Importing this package reads no file and loads neither gRPC nor tuf; the names below are resolved
when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyd_client.batch import BatchOutcome as BatchOutcome
    from keyd_client.batch import sign_metadata_batch as sign_metadata_batch
    from keyd_client.client import Client as Client
    from keyd_client.errors import KeydClientError as KeydClientError
    from keyd_client.pending import PendingApproval as PendingApproval
    from keyd_client.profile import Profile as Profile
    from keyd_client.repository import KeydRepository as KeydRepository
    from keyd_client.roles import RoleKeys as RoleKeys
    from keyd_client.signer import KeydSigner as KeydSigner
    from keyd_client.signer import register as register

__version__ = "0.1.0"

_HOME = {
    "BatchOutcome": "batch",
    "Client": "client",
    "KeydClientError": "errors",
    "KeydRepository": "repository",
    "KeydSigner": "signer",
    "PendingApproval": "pending",
    "Profile": "profile",
    "RoleKeys": "roles",
    "register": "signer",
    "sign_metadata_batch": "batch",
}
__all__ = [
    "BatchOutcome",
    "Client",
    "KeydClientError",
    "KeydRepository",
    "KeydSigner",
    "PendingApproval",
    "Profile",
    "RoleKeys",
    "register",
    "sign_metadata_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tuf":
            raise
        wanted = f"{name} needs python-tuf: pip install 'keyd-client[tuf]'"
        raise ModuleNotFoundError(wanted, name="tuf") from error
