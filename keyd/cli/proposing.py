"""Operations as the command line names them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from keyd.cli.case import own_file
from keyd.cli.metadata_files import read_document, read_file
from keyd.domain import operations
from keyd.domain.operations import (
    AcceptPolicy,
    ChangeKeyState,
    CreateKey,
    Operation,
    SetBaseRule,
    SignMetadata,
    SignOpaque,
    VoidReservation,
)
from keyd.domain.payload import parse
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd_client import Client
from keyd_client.messages import label


def signing(client: Client, path: Path, repository: str, role: str) -> tuple[Operation, bytes]:
    """Have a metadata file's payload signed, in the role's present epoch."""
    document = read_document(path)
    payload = parse(document.payload, max_bytes=PAYLOAD_MAX_BYTES)
    name = repository or client.profile.repository
    meant = document.role(role, path, "")
    operation = SignMetadata(
        repository=name,
        role=meant,
        epoch=_epoch(client, name, meant),
        version=payload.signed["version"],
        payload_sha256=payload.digest,
    )
    return operation, document.payload


def voiding(
    client: Client, repository: str, role: str, version: int, *, elsewhere: int
) -> Operation:
    """Free a version that is bound to a payload, in the role's present epoch."""
    name = repository or client.profile.repository
    bound = client.get_signature(role, version, name).payload
    epoch = _epoch(client, name, role)
    digest = hashlib.sha256(bound).hexdigest()
    return VoidReservation(name, role, epoch, version, digest, elsewhere)


def key_state(client: Client, key: str, state: str) -> Operation:
    """Take a key, as it is now, to another state."""
    found = client.keys.get(key)
    return ChangeKeyState(key, found.key_sha256.hex(), label(found, "state"), state)


def creating(
    name: str, token: str, scheme: str, content: str, *, rsa_bits: str | None
) -> Operation:
    """Make a key pair."""
    return CreateKey(name, token, scheme, int(rsa_bits or 0), content)


def signing_opaque(client: Client, key: str, path: Path) -> Operation:
    """Have bytes signed by an opaque key; the proposal holds their digest alone."""
    digest = hashlib.sha256(read_file(path)).hexdigest()
    return SignOpaque(key, client.keys.get(key).key_sha256.hex(), digest)


def base_rule(threshold: int) -> Operation:
    """Set the base rule."""
    return SetBaseRule(threshold)


def policy(path: Path) -> tuple[Operation, bytes]:
    """Accept a policy file by its bytes."""
    content = read_file(path)
    return AcceptPolicy(hashlib.sha256(content).hexdigest()), content


def written(path: Path, payload: Path | None) -> tuple[Operation, bytes]:
    """An operation in canonical JSON, from a file. Raises: InvalidRequest, click.UsageError."""
    operation = operations.decode(read_file(path).removesuffix(b"\n"))
    return operation, own_file(operation, payload) if payload else b""


def one_of(chosen: dict[str, object]) -> str:
    """The one option that was given. Raises: click.UsageError."""
    given = [name for name, value in chosen.items() if value not in (None, ())]
    if len(given) != 1:
        raise click.UsageError(f"say what to propose by one of {', '.join(chosen)}")
    return given[0]


def _epoch(client: Client, repository: str, role: str) -> int:
    state = client.repositories.state(repository)
    return next((each.epoch for each in state.roles if each.role == role), 0)
