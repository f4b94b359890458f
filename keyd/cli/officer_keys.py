"""An officer's own key: what signs an approval, on a token or (for development) in a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from keyd.domain import public_keys
from keyd.domain.keys import Scheme
from keyd.domain.officers import OfficerKey, OfficerKeyKind
from keyd.errors import InvalidRequest, KeydError

FILE_PREFIX = "file:"


class OfficerSigner(Protocol):
    """A key that approves; every kind of device has one of these."""

    @property
    def public(self) -> OfficerKey:
        """Its public half and where the private one lives."""

    def sign(self, pae: bytes) -> bytes:
        """A signature over DSSE's pre-authentication encoding, in the form that TUF stores.

        Raises: KeydError.
        """


@dataclass(frozen=True)
class FileSigner:
    """A private key in a PEM file, P-256 or Ed25519: for development ledgers only."""

    private: ec.EllipticCurvePrivateKey | Ed25519PrivateKey

    @property
    def public(self) -> OfficerKey:
        der = self.private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        is_ec = isinstance(self.private, ec.EllipticCurvePrivateKey)
        scheme = Scheme.ECDSA_P256 if is_ec else Scheme.ED25519
        return OfficerKey(scheme, der, OfficerKeyKind.FILE)

    def sign(self, pae: bytes) -> bytes:
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(pae)
        return self.private.sign(pae, ec.ECDSA(hashes.SHA256()))


def read_file_signer(path: Path) -> FileSigner:
    """Raises: InvalidRequest (OFFICER_KEY_UNUSABLE)."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise _unusable(f"{path} is open to others: chmod 600 it")
        private = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise _unusable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(f"{path} holds no private key in plain PEM") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise _unusable(f"{path} holds neither a P-256 nor an Ed25519 key")
    signer = FileSigner(private)
    public_keys.check_matches_scheme(signer.public.public_der, signer.public.scheme.value)
    return signer


def write_key_file(path: Path) -> FileSigner:
    """Make a P-256 key in a new file of mode 0600. Raises: FileExistsError."""
    signer = FileSigner(ec.generate_private_key(ec.SECP256R1()))
    pem = signer.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - made with its mode
        file.write(pem)
    return signer


@contextmanager
def opened(
    key: str, module: Path | None, key_id: bytes, pin_fd: int | None
) -> Iterator[OfficerSigner]:
    """The key that the command line names; a token is left when the block ends.

    `key` is "file:PATH" or a token's RFC 7512 address, `module` its PKCS#11 library, `key_id` the
    CKA_ID (b"": the only key there is). Raises: KeydError, click.UsageError.
    """
    if key.startswith(FILE_PREFIX):
        yield read_file_signer(Path(key.removeprefix(FILE_PREFIX)))
        return
    if module is None:
        raise click.UsageError("a key on a token needs --module, the path of its PKCS#11 library")
    from keyd.cli.officer_token import opened_token  # noqa: PLC0415 - files need no worker

    with opened_token(key, module, key_id, pin_fd) as signer:
        yield signer


def checked(signer: OfficerSigner, pae: bytes) -> bytes:
    """Sign, and verify what came back. Raises: KeydError."""
    signature = signer.sign(pae)
    public = signer.public
    public_keys.verify(public.public_der, public.scheme.value, pae, signature)
    return signature


def _unusable(why: str) -> KeydError:
    return InvalidRequest("OFFICER_KEY_UNUSABLE", why)
