"""What a caller is told about a token that cannot serve, or about a request it refused."""

from __future__ import annotations

from keyd.domain.tokens import TokenState, TokenStatus
from keyd.errors import (
    AlreadyExists,
    BackendUnavailable,
    InvalidRequest,
    KeydError,
    NotFound,
    PinRejected,
    SelfCheckFailed,
)
from keyd.wire.worker_pb2 import Failure

_AGAIN_SOON_S = 0.5
_AGAIN_LATER_S = 2.0


def for_state(status: TokenStatus) -> KeydError:
    """Why a token in this state takes no request."""
    text = f"token {status.name}: {status.detail or status.state}"
    match status.state:
        case TokenState.PIN_REQUIRED:
            return PinRejected("PIN_REQUIRED", text)
        case TokenState.PIN_LOCKED:
            return PinRejected("PIN_LOCKED", text)
        case TokenState.QUARANTINED:
            return _not_asked("TOKEN_QUARANTINED", text)
        case TokenState.RECOVERING | TokenState.ONLINE:
            return _not_asked("TOKEN_RECOVERING", text, _AGAIN_SOON_S)
    return _not_asked("TOKEN_OFFLINE", text, _AGAIN_LATER_S)


def _not_asked(reason: str, text: str, retry_after_s: float | None = None) -> BackendUnavailable:
    """A refusal of which it is certain that the token made nothing."""
    details = {"outcome": "NOT_STARTED"}
    return BackendUnavailable(reason, text, details=details, retry_after_s=retry_after_s)


def for_failure(token: str, failure: Failure) -> KeydError:
    """What a worker's refusal of one request means to its caller."""
    code = failure.code
    match failure.kind:
        case Failure.KIND_KEY_NOT_FOUND:
            return NotFound("KEY_NOT_ON_TOKEN", f"token {token} holds no such key pair ({code})")
        case Failure.KIND_KEY_AMBIGUOUS if code == "CKA_ID_TAKEN":
            return AlreadyExists("CKA_ID_TAKEN", f"token {token} has objects of this CKA_ID")
        case Failure.KIND_KEY_AMBIGUOUS:
            return InvalidRequest(
                "KEY_AMBIGUOUS",
                f"several objects on token {token} share the key's CKA_ID; remove the doubles",
            )
        case Failure.KIND_PAIR_BROKEN:
            return SelfCheckFailed(
                "KEY_PAIR_BROKEN",
                f"on token {token} the private key does not belong to the public key beside it",
            )
        case Failure.KIND_NOT_SUPPORTED | Failure.KIND_INVALID:
            return InvalidRequest(
                "TOKEN_NOT_CAPABLE", f"token {token} cannot do this ({code}); choose another scheme"
            )
        case Failure.KIND_ATTRIBUTES_REFUSED:
            return InvalidRequest(
                "KEY_ATTRIBUTES_REFUSED",
                f"token {token} made or holds a key whose {code} is not what keyd demands",
            )
        case Failure.KIND_NOT_LOGGED_IN:
            return BackendUnavailable(
                "TOKEN_RECOVERING",
                f"token {token} lost its login and recovers; retry",
                retry_after_s=_AGAIN_SOON_S,
            )
    return BackendUnavailable(
        "TOKEN_FAILED", f"token {token} failed ({code}); retry", retry_after_s=_AGAIN_SOON_S
    )


def worker_ended(token: str) -> BackendUnavailable:
    """The worker ended while it was asked; it is replaced."""
    return BackendUnavailable(
        "TOKEN_WORKER_ENDED",
        f"the worker of token {token} ended during the request and is replaced; retry",
        details={"outcome": "UNKNOWN_RECORDED"},
        retry_after_s=_AGAIN_SOON_S,
    )
