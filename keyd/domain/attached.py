"""Which bytes a proposal carries beside its operation: those whose digest the operation names."""

from __future__ import annotations

from keyd.domain.operations import AcceptPolicy, Operation, SignMetadata, StartRotation


def attached_digest(operation: Operation) -> str:
    """SHA-256 (hex) of the bytes that officers must see as well, "" if the operation tells all."""
    match operation:
        case SignMetadata():
            return operation.payload_sha256
        case StartRotation():
            return operation.plan_sha256
        case AcceptPolicy():
            return operation.revision
        case _:
            return ""
