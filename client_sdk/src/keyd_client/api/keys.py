"""KeyService: key pairs on tokens."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from keyd_client.api.paging import listed
from keyd_client.channel import Connection
from keyd_client.messages import content_of
from keyd_protos.v1.keys_pb2 import (
    AdoptKeyRequest,
    CreateKeyRequest,
    DeactivateKeyRequest,
    DestroyKeyRequest,
    GetKeyRequest,
    Key,
    ListKeysRequest,
    MarkKeyCompromisedRequest,
    ResumeKeyRequest,
    SuspendKeyRequest,
)
from keyd_protos.v1.keys_pb2_grpc import KeyServiceStub


class Keys:
    """Key pairs by name. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        name: str,
        token: str,
        *,
        scheme: str = "",
        rsa_bits: int = 0,
        content: str = "tuf",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Key:
        """Generate a pair on `token`. `scheme` "" is P-256; `content` is "tuf" or "opaque".

        With the same `request_id` a repetition returns the key that was made.
        """
        request = CreateKeyRequest(
            name=name,
            token=token,
            scheme=scheme,
            rsa_bits=rsa_bits,
            content=content_of(content),
            request_id=request_id or uuid.uuid4().hex,
        )
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).CreateKey, request, timeout_s
        ).key

    def get(self, name: str, *, timeout_s: float | None = None) -> Key:
        """One key."""
        request = GetKeyRequest(name=name)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).GetKey, request, timeout_s
        ).key

    def list(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[Key]:
        """All keys by name, fetched page by page while iterating."""
        request = ListKeysRequest(page_size=page_size)
        return listed(
            request,
            lambda: self._connection.call(
                lambda channel: KeyServiceStub(channel).ListKeys, request, timeout_s
            ),
            lambda page: page.keys,
        )

    def adopt(
        self,
        name: str,
        token: str,
        cka_id: bytes,
        *,
        scheme: str = "",
        content: str = "tuf",
        key_sha256: bytes = b"",
        timeout_s: float | None = None,
    ) -> Key:
        """Register a pair made by an operator. `key_sha256`: the expected fingerprint, 32 bytes."""
        request = AdoptKeyRequest(
            name=name,
            token=token,
            cka_id=cka_id,
            scheme=scheme,
            content=content_of(content),
            key_sha256=key_sha256,
        )
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).AdoptKey, request, timeout_s
        ).key

    def suspend(self, name: str, comment: str = "", *, timeout_s: float | None = None) -> Key:
        """Stop signing with the key until it is resumed."""
        request = SuspendKeyRequest(name=name, comment=comment)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).SuspendKey, request, timeout_s
        ).key

    def resume(self, name: str, comment: str = "", *, timeout_s: float | None = None) -> Key:
        """Let a suspended key sign again."""
        request = ResumeKeyRequest(name=name, comment=comment)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).ResumeKey, request, timeout_s
        ).key

    def deactivate(self, name: str, comment: str = "", *, timeout_s: float | None = None) -> Key:
        """Retire the key for ever; it may still co-sign the root that removes it."""
        request = DeactivateKeyRequest(name=name, comment=comment)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).DeactivateKey, request, timeout_s
        ).key

    def mark_compromised(
        self, name: str, comment: str = "", *, timeout_s: float | None = None
    ) -> Key:
        """Say that the key may be stolen. There is no way back."""
        request = MarkKeyCompromisedRequest(name=name, comment=comment)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).MarkKeyCompromised, request, timeout_s
        ).key

    def destroy(self, name: str, comment: str = "", *, timeout_s: float | None = None) -> Key:
        """Delete the private key from its token (needs a quorum)."""
        request = DestroyKeyRequest(name=name, comment=comment)
        return self._connection.call(
            lambda channel: KeyServiceStub(channel).DestroyKey, request, timeout_s
        ).key
