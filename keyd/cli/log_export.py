"""The log of a running daemon as files, in the form that `keyd ledger export` writes."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from keyd.errors import AlreadyExists
from keyd.ledger.verification.export import CHECKPOINT, ENTRIES, KEYS, PAYLOADS
from keyd_client import Client
from keyd_client.errors import NotAllowed
from keyd_client.messages import GetCheckpointResponse, Key


def download(client: Client, target: Path) -> tuple[GetCheckpointResponse, int]:
    """Write entries, checkpoint and keys into the new directory `target`; returns how many entries.

    Payloads stay with the daemon, and keys too if this identity may not list them. Raises:
    AlreadyExists (EXPORT_EXISTS), KeydClientError.
    """
    try:
        target.mkdir(mode=0o700)
    except FileExistsError as error:
        raise AlreadyExists("EXPORT_EXISTS", f"{target} is there already") from error
    signed = client.audit.checkpoint()
    entries = client.audit.entries(0, signed.size)
    count = _write(target / ENTRIES, (entry.data for entry in entries))
    _write(target / KEYS, _keys(client))
    _write(target / PAYLOADS, ())
    _write(target / CHECKPOINT, [signed.note.encode().removesuffix(b"\n")])
    return signed, count


def _keys(client: Client) -> Iterator[bytes]:
    try:
        for key in client.keys.list():
            yield json.dumps(
                {
                    "name": key.name,
                    "scheme": key.scheme,
                    "sha256": key.key_sha256.hex(),
                    "public": base64.b64encode(_der(key)).decode(),
                }
            ).encode()
    except NotAllowed:
        return


def _der(key: Key) -> bytes:
    """The SubjectPublicKeyInfo in a PEM block (RFC 7468)."""
    lines = key.public_key_pem.splitlines()
    return base64.b64decode("".join(line for line in lines if not line.startswith("-----")))


def _write(path: Path, lines: Iterable[bytes]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    count = 0
    with os.fdopen(descriptor, "wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count
