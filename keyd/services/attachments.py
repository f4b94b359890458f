"""The bytes beside an operation that officers decide on, and what those are compared with."""

from __future__ import annotations

import hashlib

from keyd.domain import operations
from keyd.domain.attached import attached_digest
from keyd.domain.operations import AcceptPolicy, Operation, SignMetadata, StartRotation
from keyd.domain.payload import parse
from keyd.domain.records import Role
from keyd.domain.records_quorum import Proposal
from keyd.domain.rotation.reading import read_plan
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd.errors import InvalidRequest
from keyd.ports import View
from keyd.services.evidence import role_or_new, rules_of
from keyd.services.policy_change import TEXT
from keyd.services.rotation.plans import plan_behind


def check_attached(view: View, operation: Operation, payload: bytes) -> None:
    """Nobody is asked about bytes that are not there, or are others than the operation names.

    Raises: InvalidRequest (PAYLOAD_UNEXPECTED, PAYLOAD_MISSING, PAYLOAD_TOO_LARGE,
    PAYLOAD_CHECKSUM_MISMATCH, PLAN_UNREADABLE, or what metadata that does not parse is refused
    with).
    """
    wanted = attached_digest(operation)
    if not wanted and payload:
        raise InvalidRequest("PAYLOAD_UNEXPECTED", f"{operation.kind} takes no payload")
    if isinstance(operation, SignMetadata):
        _check_metadata(view, operation, payload)
    elif wanted:
        _check_bytes(operation, payload, wanted)


def trusted_by(view: View, proposal: Proposal) -> bytes:
    """What holds now in place of the bytes that are proposed; b"" if nothing does.

    For a policy the one that was in force when it was proposed, as long as it is.
    """
    operation = operations.decode(proposal.operation)
    if isinstance(operation, SignMetadata):
        role = role_or_new(view, operation.repository, operation.role)
        return view.payload(role.trusted_digest) if role.trusted_digest else b""
    if isinstance(operation, AcceptPolicy):
        text = (view.setting(TEXT) or "").encode()
        return text if _sha256(text) == proposal.policy_revision else b""
    return b""


def _check_metadata(view: View, operation: SignMetadata, payload: bytes) -> None:
    role = role_or_new(view, operation.repository, operation.role)
    rules = rules_of(role)
    parsed = parse(payload, max_bytes=rules.payload_max_bytes, extra_members=rules.extra_members)
    stated = (operation.version, operation.payload_sha256)
    if operation.epoch not in _epochs(view, role) or (
        stated != (parsed.signed["version"], parsed.digest)
    ):
        raise InvalidRequest(
            "PAYLOAD_CHECKSUM_MISMATCH",
            "the payload does not have the epoch, version and digest that the operation states",
        )


def _epochs(view: View, role: Role) -> tuple[int, ...]:
    """The role's, and the one that a recovery begins as it binds what officers have agreed to."""
    rotation = view.open_rotation(role.repository)
    if rotation is None or role.name not in plan_behind(rotation).change.lower:
        return (role.epoch,)
    return (role.epoch, role.epoch + 1)


def _check_bytes(operation: Operation, payload: bytes, wanted: str) -> None:
    if not payload:
        raise InvalidRequest(
            "PAYLOAD_MISSING",
            f"officers have to see what {operation.kind} is about: send the bytes with SHA-256 "
            f"{wanted} along",
        )
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise InvalidRequest("PAYLOAD_TOO_LARGE", f"it has more than {PAYLOAD_MAX_BYTES} bytes")
    if (found := _sha256(payload)) != wanted:
        raise InvalidRequest(
            "PAYLOAD_CHECKSUM_MISMATCH",
            f"the payload has SHA-256 {found}, where {operation.kind} names {wanted}",
        )
    if isinstance(operation, StartRotation):
        repository = read_plan(payload).change.repository
        if repository != operation.repository:
            raise InvalidRequest(
                "PLAN_UNREADABLE", f"the plan is one of repository {repository!a}: send the other"
            )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
