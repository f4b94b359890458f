"""Having officers asked for what a rotation may not do by itself."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain import operations
from keyd.domain.operations import Operation, SignMetadata
from keyd.domain.policy import Caller
from keyd.errors import ApprovalRequired
from keyd.ports import View
from keyd.services import proposals
from keyd.services.rotation.reserving import StepNeedsApproval
from keyd.services.world import World

_LIFETIME_S = 14 * 86_400
_ASKABLE = "APPROVAL_REQUIRED"


def propose(world: World, caller: Caller, wanted: StepNeedsApproval) -> ApprovalRequired:
    """Open a proposal for a payload, or find the open one; what to tell the caller of it.

    The payload of a step is the same whenever it is made, so that an approval of it holds.
    """
    return ask(world, caller, wanted, wanted.operation, wanted.payload)


def ask(
    world: World,
    caller: Caller,
    refused: ApprovalRequired,
    operation: Operation,
    payload: bytes = b"",
) -> ApprovalRequired:
    """The refusal with the name of an open proposal; as it is where there is nobody to ask."""
    if refused.reason != _ASKABLE or refused.details.get("proposal"):
        return refused
    shown = proposals.create(world, caller, operation, payload, _LIFETIME_S)
    name = shown.proposal.name
    return ApprovalRequired(
        refused.reason,
        f"to {operation.words()} needs approval: keyd proposal show {name}",
        details={**refused.details, "proposal": name},
    )


def asked_for(view: View, repository: str, role: str, version: int) -> Iterator[str]:
    """Open proposals to sign this version."""
    for proposal in view.open_proposals():
        operation = operations.decode(proposal.operation)
        if isinstance(operation, SignMetadata) and (
            (operation.repository, operation.role, operation.version) == (repository, role, version)
        ):
            yield proposal.name
