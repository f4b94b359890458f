"""What a key may do in its present state, for this payload."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain import operations
from keyd.domain.delegations import key_materials
from keyd.domain.keys import Content, Key, KeyState
from keyd.domain.operations import UseCompromisedKey
from keyd.domain.payload import Payload
from keyd.domain.records import Role
from keyd.domain.records_quorum import ProposalState
from keyd.domain.trust import KeySet
from keyd.errors import ApprovalRequired, KeydError, NotAllowed
from keyd.ports import View


def check_usable(
    view: View, key: Key, role: Role, payload: Payload, required: Sequence[KeySet]
) -> None:
    """Refuse keys whose content or state does not fit the payload.

    A PRE_ACTIVE key signs only the root that introduces it; a DEACTIVATED one only the root that
    removes it; a COMPROMISED one only the root that officers let it sign, which does not list it.
    Raises: NotAllowed, ApprovalRequired.
    """
    if key.content is not Content.TUF:
        raise NotAllowed(
            "KEY_CONTENT_MISMATCH",
            f"key {key.name!r} was created for {key.content.value} content and signs no TUF "
            "metadata; use a key created for tuf",
        )
    if key.state is KeyState.ACTIVE:
        return
    listed = key.fingerprint in key_materials(payload)
    if role.name == "root" and key.state is KeyState.PRE_ACTIVE and listed:
        return
    removes = role.name == "root" and not listed and len(required) > 1
    if removes and key.state is KeyState.DEACTIVATED:
        return
    if removes and key.state is KeyState.COMPROMISED:
        use = UseCompromisedKey(role.repository, key.name, key.fingerprint, payload.digest)
        check_exempt(view, key, use)
        return
    raise unusable(key)


def check_exempt(view: View, key: Key, operation: UseCompromisedKey) -> None:
    """Refuse unless officers let the compromised key sign exactly this payload.

    What they carried out is on record for good, so a crash loses it no more than a signature.
    Raises: ApprovalRequired (APPROVAL_REQUIRED, or QUORUM_UNAVAILABLE where nobody is to be asked).
    """
    if not view.base_threshold():
        raise unusable(key)
    digest = operations.digest(operation)
    found = view.proposals(digest)
    if any(each.state is ProposalState.EXECUTED for each in found):
        return
    waiting = next((p.name for p in reversed(found) if p.state is ProposalState.OPEN), "")
    advice = f"keyd proposal show {waiting}, then execute it" if waiting else "propose it"
    raise ApprovalRequired(
        "APPROVAL_REQUIRED",
        f"key {key.name!r} is marked compromised: to {operation.words()} needs officers; {advice}",
        details={
            "operation": operations.encode(operation).decode(),
            "operation_sha256": digest,
            "proposal": waiting,
        },
    )


def unusable(key: Key) -> KeydError:
    """Why a key that is not ACTIVE signs nothing, and what would change it."""
    if key.state is KeyState.COMPROMISED:
        return ApprovalRequired(
            "QUORUM_UNAVAILABLE",
            f"key {key.name!r} is marked compromised and signs no more: officers, if any are "
            "enrolled, can let it sign one root that removes it, and nothing else",
        )
    advice = {
        KeyState.PRE_ACTIVE: "it becomes active when metadata that lists it is accepted",
        KeyState.SUSPENDED: "resume it with keyd key resume",
        KeyState.DEACTIVATED: "it is retired; sign with its successor",
        KeyState.DESTROYED: "it is gone; sign with its successor",
    }
    return NotAllowed(
        f"KEY_{key.state.value}",
        f"key {key.name!r} is {key.state.value} and does not sign this: {advice[key.state]}",
    )
