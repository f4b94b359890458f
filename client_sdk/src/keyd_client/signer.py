"""KeydSigner: keys behind a keyd daemon for every tool that signs through securesystemslib."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)

from keyd_client import uri
from keyd_client.errors import (
    ApprovalRequired,
    ChangeNotConfirmed,
    InvalidRequest,
    NotAllowed,
)

if TYPE_CHECKING:
    from keyd_client.client import Client
    from keyd_client.profile import Profile
    from keyd_protos.v1.signing_pb2 import MetadataSignature

Confirm = Callable[[Sequence[str]], bool]


class KeydSigner(Signer):
    """Signs with the key `key` of the daemon that `profile` leads to.

    Nothing is read or opened before `sign`, which connects again whenever it must. A signer never
    changes, holds no connection, and may be shared between threads, copied and pickled. `sign`
    raises `keyd_client.errors.KeydClientError`. Where officers have to agree first, it proposes the
    payload and raises ApprovalRequired with the proposal's name.
    """

    SCHEME = uri.SCHEME

    def __init__(self, profile: str | Profile, key: str, public_key: Key) -> None:
        self._profile = profile
        self._key = key
        self._public_key = public_key
        self._repository = ""
        self._role = ""
        self._confirmed_change = b""
        self._confirm: Confirm | None = None
        # Shared with the copies that `for_role` makes: asked once for all of them.
        self._content: dict[str, str] = {}

    def __repr__(self) -> str:
        role = f" for {self._repository}/{self._role}" if self._role else ""
        return f"<KeydSigner {self._key}{role} through {self._profile!r}>"

    @classmethod
    def import_(cls, profile: str, key: str) -> tuple[str, Key]:
        """Fetch the public key of `key`; returns (private key URI, public key), to be stored.

        Raises: KeydClientError.
        """
        from keyd_client import echo  # noqa: PLC0415 - see below
        from keyd_client.client import shared_client  # noqa: PLC0415 - gRPC only once it is needed

        name = str(uri.parse(f"{uri.SCHEME}:{profile}/{key}"))
        return name, echo.public_key(shared_client(profile).keys.get(key))

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: SecretsHandler | None = None,  # noqa: ARG003 - PINs never pass a client
    ) -> KeydSigner:
        """Make a signer of ``keyd:<profile>/<key>``. Touches no file, environment or network.

        Raises: UriError (a ValueError).
        """
        profile, key = uri.parse(priv_key_uri)
        return cls(profile, key, public_key)

    @property
    def public_key(self) -> Key:
        """The object that was given."""
        return self._public_key

    @property
    def key(self) -> str:
        """The key's name at the daemon."""
        return self._key

    @property
    def confirmed_change(self) -> bytes:
        """Digest of the root change that was read, 32 bytes, or nothing."""
        return self._confirmed_change

    def for_role(self, repository: str, role: str, confirm: Confirm | None = None) -> KeydSigner:
        """A signer that names what it signs for; needed where a key serves several roles.

        `confirm` is asked, with one line per difference to the trusted root, before a root change
        is signed; without it (and without `confirming`) such a change is refused.
        """
        signer = copy.copy(self)
        signer._repository, signer._role, signer._confirm = repository, role, confirm
        return signer

    def confirming(self, change_digest: bytes | str) -> KeydSigner:
        """A signer for the one root change with this digest (32 bytes or 64 hex digits).

        `Client.check_metadata` shows the change and its digest. Raises: InvalidRequest.
        """
        try:
            raw = bytes.fromhex(change_digest) if isinstance(change_digest, str) else change_digest
        except ValueError:
            raw = b""
        if len(raw) != 32:
            raise InvalidRequest(
                "CHANGE_DIGEST_MALFORMED", "a change digest has 32 bytes or 64 hex digits"
            )
        signer = copy.copy(self)
        signer._confirmed_change = raw
        return signer

    def sign(self, payload: bytes) -> Signature:
        """Have `payload` signed, verify the signature, and return it under the public key's id.

        A key made for content "tuf" takes canonical TUF metadata (the bytes of "signed"), one made
        for content "opaque" anything else. Raises: KeydClientError.
        """
        from keyd_client.client import shared_client  # noqa: PLC0415

        client = shared_client(self._profile)
        if self._is_opaque(client):
            signature = client.sign_opaque(
                self._key, payload, public_key=self._public_key
            ).signature
        else:
            signature = self._sign_metadata(client, payload).signature
        return Signature(self._public_key.keyid, signature.hex())

    def _is_opaque(self, client: Client) -> bool:
        """Asked once: what a key may sign never changes.

        Who may not ask takes the key for a TUF key; if it is none, the daemon refuses and says so.
        """
        if self._key not in self._content:
            from keyd_client.messages import label  # noqa: PLC0415

            try:
                self._content[self._key] = label(client.keys.get(self._key), "content")
            except NotAllowed:
                self._content[self._key] = ""
        return self._content[self._key] == "OPAQUE"

    def _sign_metadata(self, client: Client, payload: bytes) -> MetadataSignature:
        def attempt(confirmed_change: bytes) -> MetadataSignature:
            return client.sign_metadata(
                self._key,
                payload,
                public_key=self._public_key,
                repository=self._repository,
                role=self._role,
                confirmed_change=confirmed_change,
            )

        try:
            try:
                return attempt(self._confirmed_change)
            except ChangeNotConfirmed:
                if self._confirm is None:
                    raise
                return attempt(self._ask(client, payload, self._confirm))
        except ApprovalRequired as refusal:
            from keyd_client.pending import proposed  # noqa: PLC0415

            proposed(refusal, self._key, payload, client.proposals)
            raise

    def _ask(self, client: Client, payload: bytes, confirm: Confirm) -> bytes:
        shown = client.check_metadata(
            payload, key=self._key, repository=self._repository, role=self._role
        )
        if not shown.change_sha256 or not confirm(tuple(shown.change)):
            raise ChangeNotConfirmed(
                "CHANGE_NOT_CONFIRMED", "the root change was not confirmed: nothing was signed"
            )
        return shown.change_sha256


def register() -> None:
    """Let `Signer.from_priv_key_uri` understand ``keyd:`` URIs; more than once does no harm."""
    SIGNER_FOR_URI_SCHEME[KeydSigner.SCHEME] = KeydSigner
