"""NSS softokn: a database of its own for each test that asks, without p11-kit or certutil.

As a program, what only a process that has loaded the module can do:
``python -m tests.conformance.nss set-pin|import-key MODULE PARAMETERS PIN_FILE``.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pkcs11.constants import Attribute
from pkcs11.types import Token
from pkcs11.util.rsa import decode_rsa_private_key

from keyd.worker.module import Module
from tests.softhsm import write_secret

LABEL = "keyd test"
IMPORTED_ID = b"made elsewhere"
_PLACES = ("/usr/lib/*/libsoftokn3.so", "/usr/lib/*/nss/libsoftokn3.so")


@dataclass(frozen=True)
class NSSToken:
    """A database with a PIN. NSS calls every one of its tokens serial 0000000000000000."""

    module: Path
    parameters: str
    pin_file: Path

    @property
    def uri(self) -> str:
        return f"pkcs11:token={LABEL.replace(' ', '%20')}"

    def run(self, command: str) -> None:
        """Run one of this module's commands; the PIN travels by its file."""
        program = [sys.executable, "-m", "tests.conformance.nss", command]
        arguments = [str(self.module), self.parameters, str(self.pin_file)]
        root = Path(__file__).parents[2]
        subprocess.run([*program, *arguments], cwd=root, check=True, timeout=60)


def find_softokn() -> Path | None:
    """The installed module (Debian package libnss3)."""
    found = (path for place in _PLACES for path in Path("/").glob(place.lstrip("/")))
    return next(found, None)


def create_nss(module: Path, directory: Path) -> NSSToken:
    """Makes the database in `directory` (new, mode 0700) and gives it a PIN."""
    directory.mkdir(mode=0o700)
    parameters = f"configdir='sql:{directory}' dbTokenDescription='{LABEL}'"
    token = NSSToken(module, parameters, write_secret(directory / "pin", "a test's own PIN"))
    token.run("set-pin")
    return token


def _set_pin(token: Token, pin: str) -> None:
    # A new database has no security officer's PIN and lets its first visitor in without.
    with token.open(rw=True, so_pin="") as session:
        cast(Any, session).init_pin(pin)  # missing from python-pkcs11's type stubs


def _import_key(token: Token, pin: str) -> None:
    """Store an RSA key made in software, claiming that it was made on the token."""
    private = rsa.generate_private_key(65537, 2048)
    der = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    claims = {
        Attribute.ID: IMPORTED_ID,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
        Attribute.LOCAL: True,
        Attribute.NEVER_EXTRACTABLE: True,
        Attribute.ALWAYS_SENSITIVE: True,
    }
    with token.open(rw=True, user_pin=pin) as session:
        session.create_object({**decode_rsa_private_key(der), **claims})


def main(command: str, module: str, parameters: str, pin_file: str) -> None:
    """Runs one command on the token labelled `LABEL`."""
    loaded = Module(module, parameters)
    [token] = [each for slot in loaded.slots() if (each := slot.get_token()).label == LABEL]
    commands = {"set-pin": _set_pin, "import-key": _import_key}
    commands[command](token, Path(pin_file).read_text(encoding="utf-8").rstrip("\n"))
    loaded.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
