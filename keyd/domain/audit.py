"""Entries of the audit log and the bytes that their Merkle leaves hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Event(StrEnum):
    """What an entry reports. Stable names, documented in docs/reference/audit-log.md."""

    GENESIS = "genesis"
    KEY_INTENDED = "key_intended"
    KEY_CREATED = "key_created"
    KEY_ADOPTED = "key_adopted"
    KEY_STATE_CHANGED = "key_state_changed"
    KEY_DELETION_INTENDED = "key_deletion_intended"
    KEY_DELETED = "key_deleted"
    REPOSITORY_BOOTSTRAPPED = "repository_bootstrapped"
    REPOSITORY_REGISTERED = "repository_registered"
    ROLE_RULES_CHANGED = "role_rules_changed"
    METADATA_IMPORTED = "metadata_imported"
    SIGNATURE_INTENDED = "signature_intended"
    SIGNATURE_COMPLETED = "signature_completed"
    SIGNATURE_FAILED = "signature_failed"
    OPAQUE_INTENDED = "opaque_intended"
    OPAQUE_COMPLETED = "opaque_completed"
    OPAQUE_FAILED = "opaque_failed"
    INTENT_CLOSED = "intent_closed"
    DENIED = "denied"
    TOKEN_UNLOCKED = "token_unlocked"
    TOKEN_QUARANTINED = "token_quarantined"
    TOKEN_RELEASED = "token_released"
    POLICY_LOADED = "policy_loaded"
    LEDGER_REPAIRED = "ledger_repaired"
    ROTATION_STARTED = "rotation_started"
    VERSION_RESERVED = "version_reserved"
    VERSIONS_LOWERED = "versions_lowered"
    SIGNATURE_UPLOADED = "signature_uploaded"
    ROTATION_REHEARSED = "rotation_rehearsed"
    ROTATION_PUBLISHED = "rotation_published"
    ROTATION_ENDED = "rotation_ended"
    OFFICER_CHANGED = "officer_changed"
    BASE_RULE_SET = "base_rule_set"
    PROPOSAL_CREATED = "proposal_created"
    PROPOSAL_DECIDED = "proposal_decided"
    PROPOSAL_ENDED = "proposal_ended"
    RESERVATION_VOIDED = "reservation_voided"


Fields = Mapping[str, str | int | bool | list[str]]


@dataclass(frozen=True)
class Entry:
    """One thing that happened; values are strings, whole numbers, booleans or lists of strings."""

    event: Event
    at: datetime
    principal: str
    request_id: str = ""
    fields: Fields = field(default_factory=dict)

    def encode(self, index: int) -> bytes:
        """The leaf's bytes: JSON in UTF-8, members sorted, no white space."""
        document = {
            **self.fields,
            "index": index,
            "event": self.event.value,
            "time": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "principal": self.principal,
            "request_id": self.request_id,
        }
        return _encode(document).encode()


@dataclass(frozen=True)
class Leaf:
    """A stored log entry: its index, exact bytes and RFC 6962 leaf hash (32 bytes)."""

    index: int
    data: bytes
    leaf_hash: bytes


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: origin line, number of leaves, root hash; `note` is the C2SP signed note."""

    origin: str
    size: int
    root: bytes
    note: str = ""
