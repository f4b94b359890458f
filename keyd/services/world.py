"""The ports a use case needs, in one value; `keyd.daemon` makes it, tests make their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from keyd.domain.policy import Caller, Policy
from keyd.errors import KeydError
from keyd.ports import Clock, Ledger, Tokens


class PolicySource(Protocol):
    """The policy in force; it may change between two calls."""

    def current(self) -> Policy: ...


class Denials(Protocol):
    """Where refused calls go on record."""

    def record(self, caller: Caller, method: str, refusal: KeydError, subject: str) -> None:
        """Log one refusal, or only count it when this principal is over its rate."""


@dataclass(frozen=True)
class World:
    """Everything outside the use cases.

    `opaque_may_sign_tuf` lifts the refusal of TUF-like bytes for opaque keys; it has an effect on
    development ledgers only, where test suites sign deliberately bad metadata.
    """

    ledger: Ledger
    tokens: Tokens
    clock: Clock
    policy: PolicySource
    denials: Denials
    opaque_may_sign_tuf: bool = False
