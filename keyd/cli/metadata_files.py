"""TUF metadata files on disk, as `keyd sign`, `check` and `repo import` read and write them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click

from keyd.domain import canonical, strict_json

_VERSIONED = re.compile(r"(?:[0-9]+\.)?(.+)\.json", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """A payload, and the whole metadata file it came from (None: the file is the bare payload)."""

    payload: bytes
    envelope: dict[str, Any] | None
    type: str = ""

    def role(self, given: str, path: Path, key: str) -> str:
        """The role that is meant: as given, or what type and key tell, else the file's name.

        "" leaves it to the daemon, which knows what the key signs for.
        """
        if given or self.type in {"root", "snapshot", "timestamp"}:
            return given or self.type
        return "" if key else role_of(path)

    def with_signature(self, keyid: str, signature: bytes) -> Document:
        """The file with this key's signature put in, or put in its place."""
        assert self.envelope is not None  # noqa: S101 - callers look first
        others = [one for one in self.envelope["signatures"] if one.get("keyid") != keyid]
        signatures = [*others, {"keyid": keyid, "sig": signature.hex()}]
        return replace(self, envelope={**self.envelope, "signatures": signatures})

    def content(self) -> bytes:
        """The file as python-tuf writes it: members sorted, indented by one space."""
        return json.dumps(
            self.envelope, indent=1, separators=(",", ": "), sort_keys=True, ensure_ascii=False
        ).encode()


def read_file(path: Path) -> bytes:
    """The bytes of a file that the command line names. Raises: click.UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error


def read_document(path: Path) -> Document:
    """A metadata file, whose member "signed" is brought into canonical form, or a bare payload.

    Raises: InvalidRequest for JSON that could be read in two ways, click.UsageError.
    """
    content = read_file(path)
    strict_json.check_depth(content)
    document = strict_json.read_object(strict_json.decode_utf8(content).strip())
    if "signed" not in document:
        return Document(content, None, str(document.get("_type")))
    if not isinstance(document["signed"], dict):
        raise click.UsageError(f'{path}: "signed" is no object')
    signatures = document.setdefault("signatures", [])
    if not isinstance(signatures, list) or not all(isinstance(one, dict) for one in signatures):
        raise click.UsageError(f'{path}: "signatures" is no list of objects')
    signed = document["signed"]
    return Document(canonical.encode(signed), document, str(signed.get("_type")))


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole, keeping its mode: readers see the old one or the new one."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def role_of(path: Path) -> str:
    """The role that a published file's name tells: "3.snapshot.json", "bins%2F0.json".

    Raises: click.UsageError.
    """
    match = _VERSIONED.fullmatch(path.name)
    if match is None:
        raise click.UsageError(f"{path.name} is not named [VERSION.]ROLE.json; use ROLE=FILE")
    return unquote(match.group(1))
