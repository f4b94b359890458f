"""A loaded PKCS#11 module, initialised for threads where it can be."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Self, cast

import pkcs11.exceptions as ck
from pkcs11 import _pkcs11
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session, Slot, Token

from keyd.wire.worker_pb2 import Failure
from keyd.worker.failures import WorkerFailure, code_of

_CKF_OS_LOCKING_OK = 2
_CKR_ARGUMENTS_BAD = 0x07
_CKR_CANT_LOCK = 0x0A
_CKU_USER = 1
_UNLIMITED = (0, ctypes.c_ulong(-1).value)  # CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION

# Places in CK_FUNCTION_LIST, whose entry 0 is the version. The standard guarantees no other export.
_INITIALIZE, _FINALIZE, _GET_TOKEN_INFO, _LOGIN = 1, 2, 7, 19

# Codes of C_Login that say that the PIN was looked at and not taken.
_REJECTED = {
    0x0A0: "PinIncorrect",
    0x0A1: "PinInvalid",
    0x0A2: "PinLenRange",
    0x0A3: "PinExpired",
    0x102: "UserPinNotInitialized",
}
_CKR_PIN_LOCKED = 0x0A4


class CannotLock(Exception):
    """The module does not lock by the operating system's means, or cannot be asked to."""


class _TokenInfo(ctypes.Structure):
    """The head of CK_TOKEN_INFO; the tail is kept as space for the module to write into."""

    _fields_ = (
        ("names", ctypes.c_char * 96),
        ("flags", ctypes.c_ulong),
        ("max_sessions", ctypes.c_ulong),
        ("tail", ctypes.c_char * 256),
    )


class _LockingLibrary(_pkcs11.lib):
    """python-pkcs11 calls C_Initialize(NULL), a promise of one thread, yet releases the GIL.

    Two threads crash such a module. `initialize` is the hook that its constructor calls.
    `initialized` stays False underneath, so `finalize` must be ours as well.
    """

    def __new__(cls, path: str, _parameters: str) -> Self:
        # The binding's constructor in C, unknown to its type stubs, takes the path alone.
        return super().__new__(cls, path)  # type: ignore[call-arg]

    def __init__(self, path: str, parameters: str) -> None:
        self._parameters = ctypes.create_string_buffer(parameters.encode()) if parameters else None
        super().__init__(path)

    def initialize(self) -> None:
        # CK_C_INITIALIZE_ARGS ends with pReserved. Modules that take parameters there read one
        # element more and want it NULL.
        given = ctypes.addressof(self._parameters) if self._parameters else 0
        arguments = (ctypes.c_ulong * 7)(0, 0, 0, 0, _CKF_OS_LOCKING_OK, given, 0)
        rv = self.entry(_INITIALIZE, ctypes.c_void_p)(arguments)
        if rv == _CKR_CANT_LOCK:
            raise CannotLock
        if rv == _CKR_ARGUMENTS_BAD:
            raise _parameters_refused()
        _check(rv)

    def finalize(self) -> None:
        _check(self.entry(_FINALIZE, ctypes.c_void_p)(None))

    def entry(self, place: int, *types: Any) -> Callable[..., int]:
        """One function of the module's list, to be called with arguments of `types`."""
        prototype = ctypes.CFUNCTYPE(ctypes.c_ulong, *types)
        return cast(Callable[..., int], prototype(_function_list(self.so)[place] or 0))


def _function_list(path: str) -> Any:
    table = ctypes.POINTER(ctypes.c_void_p)()
    if ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(table)):
        raise PKCS11Error
    return table


def _check(rv: int) -> None:
    if rv:
        raise PKCS11Error(f"Unmapped error code {rv:#x}")


class Module:
    """One module in one process. `threaded` False: only one thread may ever call it."""

    def __init__(self, path: str, parameters: str = "") -> None:
        """Load and initialise with the module's own `parameters`, if it takes any.

        Raises: PKCS11Error, WorkerFailure (MODULE_PARAMETERS: it refuses them, or demands some).
        """
        try:
            if not _one_function_list(path):
                raise CannotLock
            self._locking: _LockingLibrary | None = _LockingLibrary(path, parameters)
            self._library: _pkcs11.lib = self._locking
        except CannotLock as error:
            if parameters:
                raise _parameters_refused() from error
            self._locking = None
            self._library = _pkcs11.lib(path)

    @property
    def threaded(self) -> bool:
        return self._locking is not None

    @property
    def description(self) -> str:
        """Manufacturer and name of the library."""
        return f"{self._library.manufacturer_id} {self._library.library_description}".strip()

    @property
    def cryptoki_version(self) -> tuple[int, int]:
        return self._library.cryptoki_version

    def slots(self) -> list[Slot]:
        """Slots that say they hold a token."""
        return self._library.get_slots(token_present=True)

    def reinitialize(self) -> None:
        """C_Finalize, C_Initialize: every session and handle is gone."""
        self._library.reinitialize()

    def finalize(self) -> None:
        self._library.finalize()

    def max_sessions(self, slot: Slot) -> int | None:
        """How many sessions the token allows; None if it sets or tells no limit."""
        if self._locking is None:
            return None
        info = _TokenInfo()
        call = self._locking.entry(_GET_TOKEN_INFO, ctypes.c_ulong, ctypes.c_void_p)
        _check(call(slot.slot_id, ctypes.byref(info)))
        return None if info.max_sessions in _UNLIMITED else int(info.max_sessions)

    def open_anchor(self, token: Token) -> Session | None:
        """The session that will hold the login; None where opening and login are one call.

        Opened apart from the login, so that a module that dies here has spent no PIN try.
        """
        return token.open() if self._locking else None

    def login(self, token: Token, anchor: Session | None, pin: bytearray) -> Session:
        """Call C_Login once and return the session that holds the login.

        Raises: WorkerFailure with `pin_presented`.
        """
        if self._locking is None or anchor is None:
            return _open_with_pin(token, pin)
        call = self._locking.entry(
            _LOGIN, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong
        )
        buffer = (ctypes.c_char * len(pin)).from_buffer(pin)
        rv = call(cast(Any, anchor).handle, _CKU_USER, ctypes.byref(buffer), len(pin))
        if rv == 0:
            return anchor
        if rv == _CKR_PIN_LOCKED:
            raise WorkerFailure(Failure.KIND_PIN_LOCKED, "PinLocked", presented=True)
        if code := _REJECTED.get(rv):
            raise WorkerFailure(Failure.KIND_PIN_INCORRECT, code, presented=True)
        raise WorkerFailure(Failure.KIND_TOKEN_FAILED, f"CKR_{rv:#x}", presented=True)


def _parameters_refused() -> WorkerFailure:
    return WorkerFailure(Failure.KIND_INVALID, "MODULE_PARAMETERS")


def _one_function_list(path: str) -> bool:
    # p11-kit's client and proxy return another table at each call: what is initialised through one
    # is not initialised for the other.
    first, second = (ctypes.cast(_function_list(path), ctypes.c_void_p).value for _ in range(2))
    return first == second


def _open_with_pin(token: Token, pin: bytearray) -> Session:
    try:
        return token.open(user_pin=pin.decode())
    except UnicodeDecodeError as error:
        raise WorkerFailure(Failure.KIND_PIN_UNAVAILABLE, "PIN_NOT_UTF8") from error
    except ck.PinLocked as error:
        raise WorkerFailure(Failure.KIND_PIN_LOCKED, code_of(error), presented=True) from error
    except PKCS11Error as error:
        known = code_of(error) in _REJECTED.values()
        kind = Failure.KIND_PIN_INCORRECT if known else Failure.KIND_TOKEN_FAILED
        raise WorkerFailure(kind, code_of(error), presented=True) from error
