"""An officer's token: what a command makes of an unlocking that had no answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest

from keyd.backends import calls
from keyd.backends.token import WorkerToken
from keyd.cli.exits import Exit, exit_code
from keyd.cli.officer_token import _unlock
from keyd.domain.tokens import TokenState, TokenStatus
from keyd.errors import KeydError


@dataclass
class Hanging:
    """A token that never answers to an unlocking."""

    error: KeydError
    presented: list[bytearray] = field(default_factory=list)

    def status(self) -> TokenStatus:
        return TokenStatus("officer", TokenState.PIN_REQUIRED, "", datetime.now(UTC))

    def unlock(self, pin: bytearray, timeout_s: float) -> TokenStatus:
        self.presented.append(pin)
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (lambda: calls.unlock_unanswered("officer"), "PIN_OUTCOME_UNKNOWN", Exit.FAILED),
        (calls.unknown_outcome, "PIN_OUTCOME_UNKNOWN", Exit.FAILED),
        (calls.not_started, "TOKEN_DEADLINE", Exit.TRY_AGAIN),
    ],
)
def test_nothing_says_try_again_once_a_pin_may_have_been_tried(
    error: Callable[[], KeydError], reason: str, code: Exit
) -> None:
    """A script that repeats on 75 would spend the tries of a token that hangs."""
    token = Hanging(error())
    here, there = os.pipe()
    os.write(there, b"123456")
    os.close(there)
    with pytest.raises(KeydError) as raised:
        _unlock(cast(WorkerToken, token), here, "pkcs11:token=alice")
    assert (raised.value.reason, exit_code(raised.value)) == (reason, code)
    assert "keyd token" not in raised.value.message
    assert token.presented == [bytearray(6)]
