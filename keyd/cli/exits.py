"""Exit codes of every command, in one place (docs/reference/cli.md)."""

from __future__ import annotations

from enum import IntEnum

from keyd import errors
from keyd.errors import KeydError
from keyd.rpc.options import CannotListen
from keyd_client import errors as remote
from keyd_client.errors import KeydClientError


class Exit(IntEnum):
    """What a shell or systemd learns; the numbers from 64 on are those of sysexits.h."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    TRY_AGAIN = 75
    NOT_ALLOWED = 77
    BAD_CONFIG = 78


_CODES: tuple[tuple[Exit, tuple[type[Exception], ...]], ...] = (
    (Exit.UNAVAILABLE, (errors.BackendUnavailable, remote.BackendUnavailable)),
    (
        Exit.TRY_AGAIN,
        (
            errors.Exhausted,
            errors.DeadlineExceeded,
            remote.Exhausted,
            remote.DeadlineExceeded,
        ),
    ),
    (
        Exit.NOT_ALLOWED,
        (
            errors.NotAllowed,
            errors.Unauthenticated,
            errors.ApprovalRequired,
            remote.NotAllowed,
            remote.Unauthenticated,
            remote.ApprovalRequired,
        ),
    ),
    (Exit.BAD_CONFIG, (remote.ProfileError,)),
)
_BAD_CONFIG_REASONS = frozenset({"CONFIG_INVALID"})
# What somebody else holds is free again one day; what is configured wrongly stays wrong.
_HELD_REASONS = frozenset({"SOCKET_IN_USE", "ADDRESS_UNUSABLE"})


def exit_code(error: KeydError | KeydClientError) -> Exit:
    """The code for a refusal or failure; FAILED unless a class says more."""
    if error.reason in _BAD_CONFIG_REASONS:
        return Exit.BAD_CONFIG
    if isinstance(error, CannotListen):
        return Exit.UNAVAILABLE if error.reason in _HELD_REASONS else Exit.BAD_CONFIG
    for code, classes in _CODES:
        if isinstance(error, classes):
            return code
    return Exit.FAILED
