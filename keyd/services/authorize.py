"""The second gate of every call: may this caller do this to these resources?"""

from __future__ import annotations

from keyd.domain.policy import Action, Caller, decide
from keyd.errors import NotAllowed
from keyd.services.world import World


def denial(world: World, caller: Caller, action: Action) -> NotAllowed | None:
    """None if the policy in force allows the action, else the refusal, not yet on record."""
    decision = decide(world.policy.current(), caller, action)
    if decision.allowed:
        return None
    subject = _subject(action)
    place = f" on {subject}" if subject else ""
    return NotAllowed(
        "POLICY_DENIES",
        f"{caller.principal} may not call {action.method}{place}: {decision.explanation}; "
        "an administrator can grant it in the policy file (keyd policy explain shows why)",
    )


def demand(world: World, caller: Caller, action: Action) -> None:
    """Return if the policy in force allows the action, else put the denial on record.

    Raises: NotAllowed (POLICY_DENIES).
    """
    _enforce(world, caller, action, denial(world, caller, action))


def demand_administrator(world: World, caller: Caller, action: Action, what: str = "") -> None:
    """Like `demand`, and only for callers on the local administrator's socket.

    `what` says in words what is asked for, where not all calls of the method need this.
    Raises: NotAllowed (POLICY_DENIES, LOCAL_ADMINISTRATOR_ONLY).
    """
    demand(world, caller, action)
    if not caller.local_admin:
        refusal = NotAllowed(
            "LOCAL_ADMINISTRATOR_ONLY",
            f"{what or action.method} can loosen what the rules protect and is taken only from the "
            "local administrator's Unix socket",
        )
        _enforce(world, caller, action, refusal)


def _enforce(world: World, caller: Caller, action: Action, refusal: NotAllowed | None) -> None:
    if refusal is not None:
        world.denials.record(caller, action.method, refusal, _subject(action))
        raise refusal


def _subject(action: Action) -> str:
    return "/".join(p for p in (action.repository, action.role, action.key, action.token) if p)
