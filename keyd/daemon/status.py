"""The state of all tokens in a line, for systemd's STATUS and whoever waits for the start."""

from __future__ import annotations

from keyd.domain.tokens import TokenState, TokenStatus
from keyd.ports import Ledger, Tokens

# Waiting longer changes nothing about these: an operator has to act.
_SETTLED = frozenset(
    {
        TokenState.ONLINE,
        TokenState.PIN_REQUIRED,
        TokenState.PIN_LOCKED,
        TokenState.QUARANTINED,
    }
)


def settled(tokens: Tokens, ledger: Ledger) -> bool:
    """Whether every token signs, or waits for somebody.

    While the ledger refuses, no login can be recorded beforehand, so none is made.
    """
    if ledger.refusal():
        return True
    return all(backend.status().state in _SETTLED for backend in tokens.all())


def describe(tokens: Tokens, ledger: Ledger) -> str:
    """One line: why nothing is signed, or which tokens do not sign, or that all do."""
    if refusal := ledger.refusal():
        return f"signing nothing: {refusal}"
    found = [backend.status() for backend in tokens.all()]
    waiting = [_line(status) for status in found if status.state is not TokenState.ONLINE]
    online = f"{len(found) - len(waiting)} of {len(found)} tokens online"
    return "; ".join([online, *waiting])


def _line(status: TokenStatus) -> str:
    detail = f" ({status.detail})" if status.detail else ""
    return f"{status.name} {status.state}{detail}"
