"""What the worker tells the daemon about a failure: a kind and a code, never a library's text."""

from __future__ import annotations

import re

import pkcs11.exceptions as ck
from pkcs11.exceptions import PKCS11Error

from keyd.wire.worker_pb2 import Failure

_NOT_SUPPORTED: tuple[type[PKCS11Error], ...] = (
    ck.ArgumentsBad,
    ck.AttributeReadOnly,
    ck.AttributeTypeInvalid,
    ck.AttributeValueInvalid,
    ck.DataInvalid,
    ck.DataLenRange,
    ck.DomainParamsInvalid,
    ck.FunctionNotSupported,
    ck.KeySizeRange,
    ck.KeyTypeInconsistent,
    ck.MechanismInvalid,
    ck.MechanismParamInvalid,
    ck.TemplateIncomplete,
    ck.TemplateInconsistent,
)
_UNMAPPED = re.compile(r"Unmapped error code 0x([0-9a-f]{1,16})")


class WorkerFailure(Exception):
    """A request failed for a reason that the worker understands."""

    def __init__(self, kind: Failure.Kind.ValueType, code: str, *, presented: bool = False) -> None:
        super().__init__(code)
        self.kind = kind
        self.code = code
        self.pin_presented = presented


def to_failure(error: Exception) -> Failure:
    """The message for any exception; unknown ones are the token's failure."""
    if isinstance(error, WorkerFailure):
        return Failure(kind=error.kind, code=error.code, pin_presented=error.pin_presented)
    return Failure(kind=_kind(error), code=code_of(error))


def code_of(error: Exception) -> str:
    """The return code's name as python-pkcs11 spells it, CKR_0x… for one it does not know."""
    if unmapped := _UNMAPPED.search(str(error)):
        return f"CKR_0x{unmapped[1]}"
    return type(error).__name__


def may_pass(error: PKCS11Error) -> bool:
    """Whether a new session and a new search may help (the ladder's first two steps).

    Return codes do not tell causes apart: SoftHSM answers OBJECT_HANDLE_INVALID to a deleted key, a
    lost token and a logout. So all count but those that are certain.
    """
    return not isinstance(error, (*_NOT_SUPPORTED, ck.UserNotLoggedIn))


def generation_may_pass(error: PKCS11Error) -> bool:
    """Whether a key generation that left nothing behind is worth another try.

    SoftHSM beside a search answers GENERAL_ERROR, sometimes TEMPLATE_INCONSISTENT.
    """
    return may_pass(error) or isinstance(error, ck.TemplateInconsistent)


def _kind(error: Exception) -> Failure.Kind.ValueType:
    if isinstance(error, ck.UserNotLoggedIn):
        return Failure.KIND_NOT_LOGGED_IN
    if isinstance(error, _NOT_SUPPORTED):
        return Failure.KIND_NOT_SUPPORTED
    return Failure.KIND_TOKEN_FAILED
