"""The demonstration repository: built like any other, by a client with `KeydRepository`."""

from __future__ import annotations

from datetime import timedelta

from keyd.cli.development.layout import REPOSITORY, TOKEN, Layout
from keyd_client import Client
from keyd_client.errors import NotFound
from keyd_client.profile import Profile
from keyd_client.repository import KeydRepository, RoleKeys

DELEGATED = "packages"
_ROLE_KEYS = {
    "root": RoleKeys(2, ["root-1", "root-2", "root-3"]),
    "targets": RoleKeys(1, ["targets-1"]),
    "snapshot": RoleKeys(1, ["snapshot-1"]),
    "timestamp": RoleKeys(1, ["timestamp-1"]),
}
_DELEGATED_KEYS = RoleKeys(1, [f"{DELEGATED}-1"])
_SCHEME = "ecdsa-sha2-nistp256"
_RENEW_WITHIN = timedelta(hours=12)


def build_repository(layout: Layout, profile: Profile) -> None:
    """Make the keys and the repository as far as they are missing; renew what expires today.

    Root has three keys and a threshold of two, and targets delegates "packages/*" to `packages`.
    Raises: KeydClientError.
    """
    first = not (layout.repository / "metadata" / "1.root.json").exists()
    with Client(profile) as client:
        for keys in (*_ROLE_KEYS.values(), _DELEGATED_KEYS):
            for name in keys.keys:
                _ensure_key(client, name)
    repository = KeydRepository(layout.repository, profile, REPOSITORY)
    if first:
        repository.initialize(_ROLE_KEYS, development=True)
    delegations = repository.targets().delegations
    if delegations is None or DELEGATED not in (delegations.roles or {}):
        repository.delegate(DELEGATED, _DELEGATED_KEYS, [f"{DELEGATED}/*"])
    repository.publish(_RENEW_WITHIN)


def key_names(profile: Profile) -> list[str]:
    """Every registered key."""
    with Client(profile) as client:
        return [key.name for key in client.keys.list()]


def _ensure_key(client: Client, name: str) -> None:
    try:
        client.keys.get(name)
    except NotFound:
        client.keys.create(name, TOKEN, scheme=_SCHEME)
