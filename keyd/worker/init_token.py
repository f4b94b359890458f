"""Initialises a PKCS#11 token; ``python -m keyd.worker.init_token --help``.

For SoftHSM and other tokens that offer an uninitialised slot. Idempotent: a token that already has
the label is left alone. PINs are read from files and never appear in an argument list. Prints one
JSON object: ``module`` (path), ``label``, ``serial``, ``uri`` (RFC 7512) and ``created``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

import pkcs11
from pkcs11.constants import TokenFlag
from pkcs11.types import Slot, Token

_SOFTHSM_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so")
_C_INIT_TOKEN = 10  # index into CK_FUNCTION_LIST, whose entry 0 is the version
_LABEL_BYTES = 32  # CK_TOKEN_INFO.label, padded with blanks


class TokenInitError(Exception):
    """The token could not be initialised; the message says what to do."""


class Module(Protocol):
    """What is needed of ``pkcs11.lib``."""

    def get_slots(self, token_present: bool = False) -> list[Slot]:
        """Every slot of the module."""


@dataclass(frozen=True)
class InitialisedToken:
    """A token that is ready for its user PIN; ``uri`` names it by label and serial (RFC 7512)."""

    module: str
    label: str
    serial: str
    uri: str
    created: bool


def find_softhsm_module() -> Path:
    """The installed SoftHSM library. Raises: TokenInitError when there is none."""
    for pattern in _SOFTHSM_MODULES:
        for found in sorted(Path("/").glob(pattern.lstrip("/"))):
            return found
    raise TokenInitError("SoftHSM is not installed; install the Debian package softhsm2")


def read_pin(path: Path) -> str:
    """The first line of a PIN file, without its line end. Raises: TokenInitError when unusable."""
    try:
        pin = path.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenInitError(f"cannot read the PIN file {path}: {error}") from error
    if not pin:
        raise TokenInitError(f"the PIN file {path} is empty; write the PIN as its first line")
    return pin


def initialise(module_path: Path, label: str, pin: str, so_pin: str) -> InitialisedToken:
    """Makes sure that exactly one token of `module_path` has `label` and a user PIN.

    `label` is at most 32 bytes of UTF-8. A token left half made (SO PIN set, user PIN not) is
    finished. Raises: TokenInitError, or pkcs11.PKCS11Error as the module reports it.
    """
    if not label.strip() or len(label.encode()) > _LABEL_BYTES:
        raise TokenInitError(f"a token label is 1 to {_LABEL_BYTES} bytes of UTF-8")
    module = pkcs11.lib(str(module_path))
    token = _find(module, label)
    created = token is None
    if token is None:
        _init_token(module_path, _free_slot(module), label, so_pin)
        token = _find(module, label)
    if token is None:
        raise TokenInitError(f"the module accepted C_InitToken but shows no token {label!r}")
    if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
        with token.open(rw=True, so_pin=so_pin) as session:
            cast(Any, session).init_pin(pin)  # missing from python-pkcs11's type stubs
    serial = token.serial.decode("utf-8", "replace")
    uri = f"pkcs11:token={quote(label, safe='')};serial={quote(serial, safe='')}"
    return InitialisedToken(str(module_path), label, serial, uri, created)


def _find(module: Module, label: str) -> Token | None:
    tokens = [slot.get_token() for slot in module.get_slots(token_present=True)]
    named = [
        token
        for token in tokens
        if token.flags & TokenFlag.TOKEN_INITIALIZED and token.label == label
    ]
    if len(named) > 1:
        raise TokenInitError(f"{len(named)} tokens are labelled {label!r}; choose another label")
    return named[0] if named else None


def _free_slot(module: Module) -> Slot:
    for slot in module.get_slots(token_present=True):
        if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED:
            return slot
    raise TokenInitError("the module shows no uninitialised token")


def _init_token(module_path: Path, slot: Slot, label: str, so_pin: str) -> None:
    """Calls C_InitToken, which python-pkcs11 does not wrap, through the function list."""
    table = ctypes.POINTER(ctypes.c_void_p)()
    ctypes.CDLL(str(module_path)).C_GetFunctionList(ctypes.byref(table))
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p
    )
    call = cast(Callable[[int, bytes, int, bytes], int], prototype(table[_C_INIT_TOKEN] or 0))
    so_bytes = so_pin.encode()
    rv = call(slot.slot_id, so_bytes, len(so_bytes), label.encode().ljust(_LABEL_BYTES))
    if rv:
        raise TokenInitError(f"C_InitToken failed with CKR {rv:#x}; check the PIN lengths")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the token is ready, 1 when it is not."""
    parser = argparse.ArgumentParser(prog="keyd.worker.init_token", description=__doc__)
    parser.add_argument("--module", type=Path, help="PKCS#11 library; default: SoftHSM")
    parser.add_argument("--label", required=True)
    parser.add_argument("--pin-file", type=Path, required=True)
    parser.add_argument("--so-pin-file", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        module_path = args.module or find_softhsm_module()
        token = initialise(
            module_path, args.label, read_pin(args.pin_file), read_pin(args.so_pin_file)
        )
    except TokenInitError as error:
        print(f"init_token: {error}", file=sys.stderr)
        return 1
    except pkcs11.PKCS11Error as error:
        # These exceptions carry the CKR name as their class and often no text.
        print(f"init_token: the module answered {type(error).__name__} {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(token)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
