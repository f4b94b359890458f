"""The client of the keyd API."""

from __future__ import annotations

import uuid
from functools import lru_cache
from types import TracebackType

import grpc
from securesystemslib.signer import Key

from keyd_client import echo
from keyd_client.api.audit import Audit
from keyd_client.api.keys import Keys
from keyd_client.api.officers import Officers
from keyd_client.api.proposals import Proposals
from keyd_client.api.repositories import Repositories
from keyd_client.api.rotations import Rotations
from keyd_client.api.tokens import Tokens
from keyd_client.channel import Connection
from keyd_client.errors import ApprovalRequired, InvalidRequest
from keyd_client.pending import PendingApproval, pending
from keyd_client.profile import Profile
from keyd_protos.v1.signing_pb2 import (
    CheckMetadataRequest,
    CheckMetadataResponse,
    GetSignatureRequest,
    GetSignatureResponse,
    MetadataSignature,
    MetadataToSign,
    SignMetadataRequest,
    SignOpaqueRequest,
    SignOpaqueResponse,
)
from keyd_protos.v1.signing_pb2_grpc import SigningServiceStub

LARGEST_PAYLOAD = 3_750_000
LARGEST_OPAQUE = 2**20


class Client:
    """One daemon's API: signing here, the rest in `keys`, `tokens` and the like.

    `profile` is the name of a profile file or a `Profile`. Nothing is read or opened before the
    first call; threads may share a client; a forked child and replaced credential files get a new
    channel by themselves. Methods return the protobuf messages of `keyd_client.messages` and raise
    `keyd_client.errors.KeydClientError`. Every call has a deadline: `timeout_s` or the profile's.
    Calls that may be repeated safely are, while the daemon is UNAVAILABLE and time is left.
    """

    def __init__(self, profile: str | Profile) -> None:
        self.connection = Connection(profile)
        self.keys = Keys(self.connection)
        self.tokens = Tokens(self.connection)
        self.repositories = Repositories(self.connection)
        self.audit = Audit(self.connection)
        self.rotations = Rotations(self.connection)
        self.officers = Officers(self.connection)
        self.proposals = Proposals(self.connection)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel once calls under way have ended. The client may be used again."""
        self.connection.close()

    @property
    def profile(self) -> Profile:
        """The profile in force. Raises: ProfileError."""
        return self.connection.profile

    def to_sign(
        self,
        payload: bytes,
        *,
        key: str = "",
        key_sha256: bytes = b"",
        repository: str = "",
        role: str = "",
        confirmed_change: bytes = b"",
    ) -> MetadataToSign:
        """A request item with its checksum; "" for `repository` is the profile's default.

        Raises: InvalidRequest if the payload is larger than any daemon takes (3,750,000 bytes).
        """
        if len(payload) > LARGEST_PAYLOAD:
            raise InvalidRequest(
                "PAYLOAD_TOO_LARGE",
                f"the payload has {len(payload)} bytes, at most {LARGEST_PAYLOAD} are signed: "
                "split the role by delegation",
            )
        return MetadataToSign(
            key=key,
            key_sha256=key_sha256,
            repository=repository or self.profile.repository,
            role=role,
            payload=payload,
            payload_sha256=echo.sha256(payload),
            confirmed_change_sha256=confirmed_change,
        )

    def sign_metadata(
        self,
        key: str,
        payload: bytes,
        *,
        public_key: Key | None = None,
        repository: str = "",
        role: str = "",
        confirmed_change: bytes = b"",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> MetadataSignature:
        """Have canonical TUF metadata bytes signed.

        The answer must be about these bytes; with `public_key` it must also be by that key, and
        verify. `confirmed_change` is the digest of a root change that was read, 32 bytes.
        Raises: KeydClientError.
        """
        item = self.to_sign(
            payload,
            key=key,
            key_sha256=echo.fingerprint(public_key) if public_key else b"",
            repository=repository,
            role=role,
            confirmed_change=confirmed_change,
        )
        request = SignMetadataRequest(metadata=item, request_id=request_id or uuid.uuid4().hex)
        answer = self.connection.call(
            lambda channel: _signing(channel).SignMetadata, request, timeout_s
        ).signature
        check_metadata_echo(item, answer)
        if public_key is not None:
            echo.verified(public_key, answer, payload)
        return answer

    def sign_or_propose(
        self,
        key: str,
        payload: bytes,
        *,
        public_key: Key | None = None,
        repository: str = "",
        role: str = "",
        confirmed_change: bytes = b"",
        timeout_s: float | None = None,
    ) -> MetadataSignature | PendingApproval:
        """As `sign_metadata`; where officers have to agree first, propose it and return at once.

        Raises: KeydClientError.
        """

        def sign() -> MetadataSignature:
            return self.sign_metadata(
                key,
                payload,
                public_key=public_key,
                repository=repository,
                role=role,
                confirmed_change=confirmed_change,
                timeout_s=timeout_s,
            )

        try:
            return sign()
        except ApprovalRequired as refusal:
            if refusal.reason != "APPROVAL_REQUIRED":
                raise
            return pending(refusal, payload, self.proposals, sign)

    def check_metadata(
        self,
        payload: bytes,
        *,
        key: str = "",
        repository: str = "",
        role: str = "",
        confirmed_change: bytes = b"",
        timeout_s: float | None = None,
    ) -> CheckMetadataResponse:
        """Every finding that signing would meet, without touching token or versions."""
        item = self.to_sign(
            payload, key=key, repository=repository, role=role, confirmed_change=confirmed_change
        )
        answer = self.connection.call(
            lambda channel: _signing(channel).CheckMetadata,
            CheckMetadataRequest(metadata=item),
            timeout_s,
        )
        echo.check_digest(item.payload_sha256, answer.payload_sha256, "payload")
        return answer

    def get_signature(
        self, role: str, version: int, repository: str = "", *, timeout_s: float | None = None
    ) -> GetSignatureResponse:
        """Payload and signatures recorded for one version of a role."""
        request = GetSignatureRequest(
            repository=repository or self.profile.repository, role=role, version=version
        )
        return self.connection.call(
            lambda channel: _signing(channel).GetSignature, request, timeout_s
        )

    def sign_opaque(
        self,
        key: str,
        data: bytes,
        *,
        public_key: Key | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> SignOpaqueResponse:
        """Have other bytes (at most 1 MiB) signed by a key made for content "opaque".

        Checked as in `sign_metadata`. Raises: KeydClientError.
        """
        if len(data) > LARGEST_OPAQUE:
            raise InvalidRequest(
                "PAYLOAD_TOO_LARGE", f"{len(data)} bytes; at most {LARGEST_OPAQUE} are signed"
            )
        request = SignOpaqueRequest(
            key=key,
            key_sha256=echo.fingerprint(public_key) if public_key else b"",
            data=data,
            data_sha256=echo.sha256(data),
            request_id=request_id or uuid.uuid4().hex,
        )
        answer = self.connection.call(
            lambda channel: _signing(channel).SignOpaque, request, timeout_s
        )
        echo.check_digest(request.data_sha256, answer.data_sha256, "data")
        echo.check_release(answer, request.key_sha256)
        if public_key is not None:
            echo.verified(public_key, answer, data)
        return answer


@lru_cache(maxsize=4)
def _signing(channel: grpc.Channel) -> SigningServiceStub:
    """A stub prepares every method of its service: made for each call it costs as much as one."""
    return SigningServiceStub(channel)


def check_metadata_echo(item: MetadataToSign, answer: MetadataSignature) -> None:
    """Compare an answer with what was asked, as far as it was said. Raises: AnswerMismatch."""
    echo.check_digest(item.payload_sha256, answer.payload_sha256, "payload")
    echo.check_release(answer, item.key_sha256)
    for sent, echoed, what in (
        (item.repository, answer.repository, "repository"),
        (item.role, answer.role, "role"),
    ):
        if sent:
            echo.check_digest(sent.encode(), echoed.encode(), what)


_shared: dict[str | Profile, Client] = {}


def shared_client(profile: str | Profile) -> Client:
    """The process's one client of a profile; signers use it, so that they can be copied."""
    found = _shared.get(profile)
    return found if found is not None else _shared.setdefault(profile, Client(profile))
