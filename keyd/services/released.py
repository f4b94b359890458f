"""What leaves keyd: a signature that is recorded and verified, and what it is bound to."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain.keys import Key
from keyd.domain.records import Reservation, ReservationState, StoredSignature
from keyd.errors import Finding


@dataclass(frozen=True)
class Released:
    """One signature with its place in the repository.

    `key` is None for signatures made elsewhere. `digest` is the payload's SHA-256 (hex); `missing`
    counts the signatures that all required key lists still lack, a key in two of them twice;
    `log_index` is the leaf of the completion.
    """

    key: Key | None
    fingerprint: str
    signature: bytes
    digest: str
    repository: str
    role: str
    epoch: int
    version: int
    replayed: bool
    accepted: bool
    missing: int
    log_index: int
    warnings: tuple[Finding, ...] = ()


def released(
    key: Key | None,
    reservation: Reservation,
    signature: StoredSignature,
    *,
    missing: int,
    replayed: bool,
    warnings: tuple[Finding, ...] = (),
) -> Released:
    """Describe a stored signature; `missing` counts what the payload lacks by now."""
    return Released(
        key=key,
        fingerprint=signature.fingerprint,
        signature=signature.signature,
        digest=reservation.digest,
        repository=reservation.repository,
        role=reservation.role,
        epoch=reservation.epoch,
        version=reservation.version,
        replayed=replayed,
        accepted=reservation.state is ReservationState.ACCEPTED,
        missing=missing,
        log_index=signature.leaf,
        warnings=warnings,
    )
