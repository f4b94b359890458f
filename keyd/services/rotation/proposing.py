"""Having officers asked for what a rotation may not do by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.domain import operations
from keyd.domain.operations import Operation, SignMetadata, UseCompromisedKey
from keyd.domain.policy import Caller
from keyd.domain.records import Role
from keyd.domain.records_quorum import Proposal
from keyd.domain.rules.expiry import exact_time
from keyd.domain.trust import RoleRules
from keyd.errors import ApprovalRequired, KeydError
from keyd.ports import View
from keyd.services import proposals
from keyd.services.evidence import rules_of
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
    if not demanded(world, view, _signing(role, version)):
        return
    waiting = [(standing(world, view, each), each) for each in _open(world, view, role, version)]
    for _, proposal in sorted(waiting, key=lambda pair: not pair[0].approved):
        yield proposal.payload


def asked_for(
    world: World, view: View, role: Role, version: int, digest: str = ""
) -> Iterator[str]:
    """Open proposals to sign this version, or to let a compromised key sign the bound `digest`."""
    for proposal in _open(world, view, role, version):
        yield proposal.name
    for proposal in view.open_proposals():
        operation = operations.decode(proposal.operation)
        if isinstance(operation, UseCompromisedKey) and (
            (operation.repository, operation.payload_sha256) == (role.repository, digest)
        ):
            yield proposal.name


def _open(world: World, view: View, role: Role, version: int) -> Iterator[Proposal]:
    """Those whose payload officers may still agree to, and which may be signed once they have."""
    for proposal in view.open_proposals():
        found = operations.decode(proposal.operation)
        if isinstance(found, SignMetadata) and (
            replace(found, payload_sha256="") == _signing(role, version)
        ):
            now = standing(world, view, proposal)
            fresh = _lives_long_enough(proposal.payload, rules_of(role), world.clock.now())
            if fresh and not (now.expired or now.stale):
                yield proposal


def _signing(role: Role, version: int) -> SignMetadata:
    return SignMetadata(role.repository, role.name, role.epoch, version, "")


def _lives_long_enough(payload: bytes, rules: RoleRules, now: datetime) -> bool:
    """Rule A5: nothing else is signed, whoever agreed to it."""
    expires = exact_time(json.loads(payload, strict=False)["expires"])
    left_s = (expires - now).total_seconds() if expires is not None else 0
    return rules.expiry_min_s <= left_s <= rules.expiry_max_s
