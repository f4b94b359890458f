"""Having officers asked for what a rotation may not do by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from keyd.domain import operations
from keyd.domain.operations import Operation, SignMetadata, UseCompromisedKey
from keyd.domain.policy import Caller
from keyd.domain.records import Role
from keyd.errors import ApprovalRequired, KeydError
from keyd.ports import View
from keyd.services import proposals
from keyd.services.quorum import demanded, standing
from keyd.services.rotation.reserving import StepNeedsApproval
from keyd.services.world import World

_LIFETIME_S = 14 * 86_400
_ASKABLE = "APPROVAL_REQUIRED"


@dataclass(frozen=True)
class Trouble:
    """Why a key has not signed."""

    key: str
    error: KeydError

    def __str__(self) -> str:
        return f"{self.key}: {self.error}"


def ask_for_key(world: World, caller: Caller, trouble: Trouble) -> Trouble:
    """Open a proposal to let a compromised key sign, where that is the trouble."""
    refused = trouble.error
    if not isinstance(refused, ApprovalRequired) or refused.reason != _ASKABLE:
        return trouble
    operation = operations.decode(refused.details["operation"].encode())
    if not isinstance(operation, UseCompromisedKey):
        return trouble
    return Trouble(trouble.key, ask(world, caller, refused, operation))


def propose(world: World, caller: Caller, wanted: StepNeedsApproval) -> ApprovalRequired:
    """Open a proposal for a payload, or find the open one; what to tell the caller of it.

    A step makes the payload that was proposed again, so that an approval of it holds.
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


def proposed(world: World, view: View, role: Role, version: int) -> Iterator[bytes]:
    """Payloads of this version that officers may still agree to; what they agreed to comes first.

    Nothing where nobody has to be asked.
    """
    asked = SignMetadata(role.repository, role.name, role.epoch, version, "")
    if not demanded(world, view, asked):
        return
    waiting = []
    for proposal in view.open_proposals():
        found = operations.decode(proposal.operation)
        if isinstance(found, SignMetadata) and replace(found, payload_sha256="") == asked:
            now = standing(world, view, proposal)
            if not (now.expired or now.stale):
                waiting.append((now.approved, proposal.payload))
    yield from (payload for _, payload in sorted(waiting, key=lambda each: not each[0]))


def asked_for(
    view: View, repository: str, role: str, versions: Collection[int], digest: str = ""
) -> Iterator[str]:
    """Open proposals to sign these versions, or to let a compromised key sign what is bound."""
    for proposal in view.open_proposals():
        operation = operations.decode(proposal.operation)
        if isinstance(operation, SignMetadata) and (
            (operation.repository, operation.role) == (repository, role)
            and operation.version in versions
        ):
            yield proposal.name
        if isinstance(operation, UseCompromisedKey) and (
            (operation.repository, operation.payload_sha256) == (repository, digest)
        ):
            yield proposal.name
