"""The keys that a role lists, as far as the daemon holds them, and how they sign together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Metadata, Root, Targets

from keyd_client import echo
from keyd_client.client import shared_client
from keyd_client.errors import (
    ApprovalRequired,
    BackendUnavailable,
    ChangeNotConfirmed,
    DeadlineExceeded,
    Exhausted,
    NotAllowed,
    PinRejected,
    PolicyViolation,
)
from keyd_client.profile import Profile
from keyd_client.signer import Confirm, KeydSigner

Delegator = Root | Targets
# What one key of several may suffer without stopping the others.
_ONE_KEYS_TROUBLE = (
    ApprovalRequired,
    BackendUnavailable,
    DeadlineExceeded,
    Exhausted,
    NotAllowed,
    PinRejected,
)


class Keyring:
    """Signs for `repository` with every listed key that the daemon of `profile` holds."""

    def __init__(self, profile: str | Profile, repository: str) -> None:
        self._client = shared_client(profile)
        self._profile = profile
        self._repository = repository
        self._names: dict[bytes, str] = {}
        self._signers: dict[str, KeydSigner] = {}

    def public_key(self, name: str) -> Key:
        """The key `name` as metadata lists it. Raises: NotFound."""
        return echo.public_key(self._client.keys.get(name))

    def sign(
        self,
        role: str,
        metadata: Metadata[Any],
        delegators: Sequence[Delegator],
        change: bytes = b"",
    ) -> None:
        """Replace the signatures of `metadata` by those of the keys that `delegators` list.

        All keys of the first delegator sign, of the second (root N for root N+1) as many as it
        takes. Keys that cannot sign now are passed over if thresholds are reached without them.
        `change` is the digest of the root change that was read. Raises: ApprovalRequired,
        PolicyViolation (THRESHOLD_NOT_REACHED, or what the rules refuse).
        """
        payload = metadata.signed_bytes
        metadata.signatures.clear()
        troubles: list[str] = []
        unapproved: ApprovalRequired | None = None
        for key in _to_sign(role, payload, metadata.signatures, delegators):
            signer = self._signer(key)
            if signer is None:
                troubles.append(f"key {key.keyid[:12]} is not on this daemon")
                continue
            bound = signer.for_role(self._repository, role)
            try:
                signature = (bound.confirming(change) if change else bound).sign(payload)
            except _ONE_KEYS_TROUBLE as trouble:
                troubles.append(f"{signer.key}: {trouble}")
                if isinstance(trouble, ApprovalRequired):
                    unapproved = unapproved or trouble
            else:
                metadata.signatures[key.keyid] = signature
        for delegator in delegators:
            result = delegator.get_verification_result(role, payload, metadata.signatures)
            if not result and unapproved is not None:
                raise unapproved
            if not result:
                raise PolicyViolation(
                    "THRESHOLD_NOT_REACHED",
                    f"{role} version {metadata.signed.version} has {len(result.signed)} of "
                    f"{result.threshold} signatures; they are recorded: take_recorded({role!r}) "
                    f"completes them once the other keys can sign ({'; '.join(troubles)})",
                )

    def confirmed_root_change(self, payload: bytes, confirm: Confirm | None) -> bytes:
        """The digest of a root change that `confirm` was shown. Raises: ChangeNotConfirmed."""
        shown = self._client.check_metadata(payload, repository=self._repository, role=Root.type)
        if shown.change_sha256 and not (confirm and confirm(tuple(shown.change))):
            raise ChangeNotConfirmed(
                "CHANGE_NOT_CONFIRMED",
                "the root change was not confirmed: give KeydRepository a confirm_root_change that "
                "shows it to somebody",
            )
        return shown.change_sha256

    def _signer(self, key: Key) -> KeydSigner | None:
        if key.keyid not in self._signers:
            fingerprint = echo.fingerprint(key)
            if fingerprint not in self._names:
                self._names = {bytes(k.key_sha256): k.name for k in self._client.keys.list()}
            if fingerprint not in self._names:
                return None
            self._signers[key.keyid] = KeydSigner(self._profile, self._names[fingerprint], key)
        return self._signers[key.keyid]


def _to_sign(
    role: str,
    payload: bytes,
    signatures: Mapping[str, Signature],
    delegators: Sequence[Delegator],
) -> Iterator[Key]:
    """Looks at `signatures` again for each key: they grow meanwhile."""
    for place, delegator in enumerate(delegators):
        for keyid in delegator.get_delegated_role(role).keyids:
            if keyid in signatures:
                continue
            if place and delegator.get_verification_result(role, payload, dict(signatures)):
                break
            yield delegator.get_key(keyid)
