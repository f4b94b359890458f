"""Reservation receipts: a version is bound to its payload here, signatures may come from elsewhere.

Whoever signs elsewhere holds in hands that no other payload will get this version, and hands the
receipt in with the signature.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from keyd.domain import canonical
from keyd.domain.records import Reservation
from keyd.errors import InvalidRequest

PAYLOAD_TYPE = "application/vnd.keyd.reservation+json"
_TYPE = "keyd-reservation-v1"


@dataclass(frozen=True)
class ReservationReceipt:
    """What the log key signs."""

    daemon: str
    rotation: str
    reservation: Reservation

    def statement(self) -> bytes:
        """Canonical JSON."""
        r = self.reservation
        document: dict[str, Any] = {
            "_type": _TYPE,
            "daemon": self.daemon,
            "rotation": self.rotation,
            "repository": r.repository,
            "role": r.role,
            "epoch": r.epoch,
            "version": r.version,
            "payload_sha256": r.digest,
            "log_index": r.leaf,
            "lists": [
                {
                    "delegator": keys.delegator,
                    "threshold": keys.threshold,
                    "keys": dict(keys.fingerprints),
                }
                for keys in r.required
            ],
        }
        return canonical.encode(document)


def place_in(statement: bytes) -> tuple[str, str, str, int, int]:
    """(daemon, rotation, role, epoch, version) of a statement. Raises: InvalidRequest."""
    daemon, rotation, role, epoch, version = _members(
        statement, "daemon", "rotation", "role", "epoch", "version"
    )
    return daemon, rotation, role, epoch, version


def bound_in(statement: bytes) -> tuple[str, str, int, str]:
    """(rotation, role, version, SHA-256 of the payload) of a statement. Raises: InvalidRequest."""
    rotation, role, version, digest = _members(
        statement, "rotation", "role", "version", "payload_sha256"
    )
    return rotation, role, version, digest


def _members(statement: bytes, *names: str) -> tuple[Any, ...]:
    try:
        found = json.loads(statement)
        return tuple(found[name] for name in names)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            "ENVELOPE_MALFORMED", "the receipt's statement cannot be read: fetch it again"
        ) from error
