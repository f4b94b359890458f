"""The repository that is signed: per scheme one role that delegates 16,384 hash bins (TAP 15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from tuf.api.metadata import Delegations, SuccinctRoles

from bench.payloads import BIT_LENGTH, PATHS
from keyd_client import echo
from keyd_client.client import Client
from keyd_client.repository import KeydRepository, RoleKeys

NAME = "bench"
_PROFILE = "dev"
_TOKEN = "softhsm"


@dataclass(frozen=True)
class Kind:
    """A scheme whose bins are signed; `name` is the prefix of its roles."""

    name: str
    scheme: str
    rsa_bits: int = 0


KINDS = (
    Kind("p256", "ecdsa-sha2-nistp256"),
    Kind("p384", "ecdsa-sha2-nistp384"),
    Kind("ed25519", "ed25519"),
    Kind("rsa3072", "rsassa-pss-sha256", 3072),
)
_TOP_LEVEL = {
    "root": RoleKeys(2, ["bench-root-1", "bench-root-2", "bench-root-3"]),
    "targets": RoleKeys(1, ["bench-targets"]),
    "snapshot": RoleKeys(1, ["bench-snapshot"]),
    "timestamp": RoleKeys(1, ["bench-timestamp"]),
}


def key_name(kind: str) -> str:
    """The key that signs the bins of a kind, and the role that delegates them."""
    return f"bench-{kind}"


def build(directory: Path, kinds: Sequence[Kind]) -> Mapping[str, Mapping[str, str]]:
    """Keys, root, targets and the delegations, all signed by the daemon."""
    with Client(_PROFILE) as client:
        for name in (name for keys in _TOP_LEVEL.values() for name in keys.keys):
            client.keys.create(name, _TOKEN, scheme="ecdsa-sha2-nistp256")
        for kind in kinds:
            client.keys.create(
                key_name(kind.name), _TOKEN, scheme=kind.scheme, rsa_bits=kind.rsa_bits
            )
        made = KeydRepository(directory, _PROFILE, NAME)
        made.initialize(_TOP_LEVEL, development=True)
        for kind in kinds:
            _delegate_bins(client, made, kind)
        return {kind.name: _described(client, key_name(kind.name)) for kind in kinds}


def add_keys(until: int) -> int:
    """Make keys that sign nothing until there are so many; returns how many there are."""
    with Client(_PROFILE) as client:
        known = sum(1 for _ in client.keys.list())
        for number in range(known, until):
            client.keys.create(f"bench-idle-{number}", _TOKEN, scheme="ecdsa-sha2-nistp256")
        return max(known, until)


def _delegate_bins(client: Client, made: KeydRepository, kind: Kind) -> None:
    role = f"bins-{kind.name}"
    made.delegate(role, RoleKeys(1, [key_name(kind.name)]), PATHS)
    key = echo.public_key(client.keys.get(key_name(kind.name)))
    with made.edit_targets(role) as targets:
        bins = SuccinctRoles([key.keyid], 1, BIT_LENGTH, kind.name)
        targets.delegations = Delegations({key.keyid: key}, succinct_roles=bins)


def _described(client: Client, name: str) -> Mapping[str, str]:
    key = client.keys.get(name)
    pem = load_pem_public_key(key.public_key_pem.encode())
    der = pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {"cka_id": key.cka_id.hex(), "scheme": key.scheme, "public_der": der.hex()}
