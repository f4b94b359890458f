"""What a key may do in its present state, for this payload."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain.delegations import key_materials
from keyd.domain.keys import Content, Key, KeyState
from keyd.domain.payload import Payload
from keyd.domain.trust import KeySet
from keyd.errors import ApprovalRequired, KeydError, NotAllowed


def check_usable(key: Key, role: str, payload: Payload, required: Sequence[KeySet]) -> None:
    """Refuse keys whose content or state does not fit the payload.

    A PRE_ACTIVE key signs only the root that introduces it; a DEACTIVATED one only the root that
    removes it. Raises: NotAllowed, ApprovalRequired.
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
    if role == "root" and key.state is KeyState.PRE_ACTIVE and listed:
        return
    if role == "root" and key.state is KeyState.DEACTIVATED and not listed and len(required) > 1:
        return
    raise unusable(key)


def unusable(key: Key) -> KeydError:
    """Why a key that is not ACTIVE signs nothing, and what would change it."""
    if key.state is KeyState.COMPROMISED:
        return ApprovalRequired(
            "QUORUM_UNAVAILABLE",
            f"key {key.name!r} is marked compromised and would need a quorum of officers; "
            "no officers are enrolled",
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
