"""Server certificates that can be replaced while connections are open, and clients' authorities."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from keyd import trusted_paths
from keyd.rpc.options import CannotListen, TcpListener
from keyd.rpc.peer import UNREADABLE


@dataclass(frozen=True)
class _Files:
    certificate: bytes
    key: bytes
    client_ca: bytes


class ServerTLS:
    """mTLS for one TCP listener. TLS 1.2 and 1.3 are all that gRPC speaks.

    Files that were read again are checked before they are used; handshakes from then on get the new
    ones, open connections stay until they reach their greatest age.
    """

    def __init__(self, listener: TcpListener) -> None:
        """Raises: CannotListen (TLS_FILES)."""
        self._listener = listener
        self._files = _read(listener)

    def credentials(self) -> grpc.ServerCredentials:
        """For `grpc.Server.add_secure_port`; a client certificate is required."""
        current = _configuration(self._files)
        served = self._files

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC before each handshake; None means no change."""
            nonlocal served
            files = self._files
            if files is served:
                return None
            served = files
            return _configuration(files)

        return grpc.dynamic_ssl_server_credentials(
            current,
            fetch,  # type: ignore[arg-type] # typeshed leaves out the None
            require_client_authentication=True,
        )

    def read_again(self) -> Callable[[], None]:
        """Read the files; what it returns puts them in use. Raises: CannotListen (TLS_FILES)."""
        files = _read(self._listener)

        def use() -> None:
            self._files = files

        return use


def _configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.client_ca
    )


def _read(listener: TcpListener) -> _Files:
    files = _Files(
        certificate=_bytes(listener.certificate),
        key=_secret(listener.key),
        client_ca=_bytes(listener.client_ca),
    )
    try:
        is_pair, are_authorities = _is_pair(files), _are_authorities(files)
    except UNREADABLE as error:
        names = f"{listener.certificate}, {listener.key} or {listener.client_ca}"
        words = "is not in PEM form, damaged, of an unknown kind, or the key is encrypted"
        raise _bad(names, words) from error
    if not is_pair:
        raise _bad(
            listener.key, f"is not the key of the first certificate in {listener.certificate}"
        )
    if not are_authorities:
        raise _bad(listener.client_ca, "holds a certificate that is no certificate authority")
    return files


def _is_pair(files: _Files) -> bool:
    [leaf, *_] = x509.load_pem_x509_certificates(files.certificate)
    key = load_pem_private_key(files.key, password=None)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return leaf.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def _are_authorities(files: _Files) -> bool:
    return all(map(_is_authority, x509.load_pem_x509_certificates(files.client_ca)))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _secret(path: Path) -> bytes:
    data = _bytes(path)
    try:
        private, mode = trusted_paths.is_private(path), stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        # Whoever renews it may have taken it away for a moment.
        raise _unreadable(path, error) from error
    if not private:
        raise _bad(path, f"has mode {mode:04o}, so others can reach the private key; chmod 0600")
    return data


def _bytes(path: Path) -> bytes:
    if why := trusted_paths.file_objection(path):
        raise CannotListen("TLS_FILES", why)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CannotListen:
    return _bad(path, f"cannot be read: {error.strerror}")


def _bad(path: Path | str, why: str) -> CannotListen:
    return CannotListen("TLS_FILES", f"{path} {why}")
