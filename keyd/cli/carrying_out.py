"""Carrying out what officers allowed: signatures are made here, all else by the daemon alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click

from keyd.cli.case import Judged
from keyd.cli.metadata_files import Document, read_file, write_file
from keyd.cli.output import plain
from keyd.domain.operations import SignMetadata, SignOpaque
from keyd.domain.payload import parse
from keyd.errors import InvalidRequest
from keyd_client import Client
from keyd_client.messages import MetadataSignature, SignOpaqueResponse


def consequence(judged: Judged, keys: Sequence[str]) -> str:
    """What is about to happen, for whoever types the name."""
    operation = judged.operation
    if not isinstance(operation, SignMetadata):
        return f"This will {plain(operation.words())}."
    changes = "".join(f"\n  {line}" for line in judged.changes)
    return f"This will {plain(operation.words())} with {', '.join(keys)}. It changes:{changes}"


def check_options(
    judged: Judged, keys: Sequence[str], output: Path | None, data: Path | None
) -> None:
    """Metadata is signed by keys, opaque bytes come from a file. Raises: click.UsageError."""
    opaque = isinstance(judged.operation, SignOpaque)
    if opaque and data is None:
        raise click.UsageError(
            "give the bytes, which the proposal does not hold: keyd proposal execute "
            f"{judged.case.basis.proposal} --data FILE"
        )
    if data is not None and not opaque:
        raise click.UsageError("--data is for proposals to sign opaque bytes")
    if isinstance(judged.operation, SignMetadata):
        if not keys:
            raise click.UsageError(
                f"say which keys of {judged.operation.role} sign: keyd proposal execute "
                f"{judged.case.basis.proposal} --key KEY --output FILE"
            )
    elif keys or output:
        raise click.UsageError("--key and --output are for proposals to sign metadata")


def sign(client: Client, judged: Judged, keys: Sequence[str]) -> list[MetadataSignature]:
    """Make the signatures that were approved; the first uses the approval up, the others join it.

    Executed again, it returns the recorded ones and adds those of further keys.
    """
    operation = judged.operation
    if not isinstance(operation, SignMetadata):
        return []
    payload = judged.case.payload
    return [
        client.sign_metadata(
            key,
            payload,
            repository=operation.repository,
            role=operation.role,
            confirmed_change=_change(client, operation, payload, key),
        )
        for key in keys
    ]


def sign_opaque(client: Client, judged: Judged, path: Path) -> SignOpaqueResponse:
    """Have the approved bytes signed. Raises: InvalidRequest (DIGEST_MISMATCH)."""
    operation, data = judged.operation, read_file(path)
    if not isinstance(operation, SignOpaque) or (
        hashlib.sha256(data).hexdigest() != operation.data_sha256
    ):
        raise InvalidRequest("DIGEST_MISMATCH", f"{path} does not hold the approved bytes")
    return client.sign_opaque(operation.key, data)


def write_signed(client: Client, judged: Judged, output: Path) -> None:
    """Write the metadata file with every recorded signature that a key of this daemon made."""
    operation, payload = judged.operation, judged.case.payload
    if not isinstance(operation, SignMetadata):
        return
    recorded = client.get_signature(operation.role, operation.version, operation.repository)
    if hashlib.sha256(recorded.payload).hexdigest() != operation.payload_sha256:
        raise InvalidRequest("DIGEST_MISMATCH", "the daemon recorded another payload than approved")
    envelope = {"signatures": [], "signed": dict(parse(payload, max_bytes=len(payload)).signed)}
    document = Document(payload, envelope)
    for one in recorded.signatures:
        if one.key:
            keyid = client.keys.get(one.key).tuf_keyid
            document = document.with_signature(keyid, one.signature)
    write_file(output, document.content())


def signed_words(made: Sequence[MetadataSignature], output: Path | None) -> str:
    """What came of it: the signatures, where the file is, and what it still lacks."""
    if not made:
        return ""
    last = made[-1]
    lacks = "accepted" if last.accepted else f"{last.missing_signatures} more signatures needed"
    head = f"{plain(last.repository)}/{plain(last.role)} version {last.version}, {lacks}"
    if output is not None:
        return f"{output}: {head}"
    return "\n".join((head, *(one.signature.hex() for one in made)))


def _change(client: Client, operation: SignMetadata, payload: bytes, key: str) -> bytes:
    """The digest by which a root's change is confirmed: it was shown, and the name was typed."""
    if operation.role != "root":
        return b""
    checked = client.check_metadata(
        payload, key=key, repository=operation.repository, role=operation.role
    )
    return checked.change_sha256
