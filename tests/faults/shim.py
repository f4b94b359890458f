"""The misbehaving module of shim.c, compiled once per run and put in front of SoftHSM."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.backends.config import TokenConfig
from tests.fleets import config_for
from tests.softhsm import SoftHSMToken

SOURCE = Path(__file__).with_name("shim.c")
_NEXT = ("do", "do2", "do3")
# reliability D1: Cryptoki's return codes and one of a vendor.
CODES = {
    "DEVICE_REMOVED": 0x32,
    "DEVICE_ERROR": 0x30,
    "DEVICE_MEMORY": 0x31,
    "SESSION_HANDLE_INVALID": 0xB3,
    "SESSION_CLOSED": 0xB0,
    "OBJECT_HANDLE_INVALID": 0x82,
    "KEY_HANDLE_INVALID": 0x60,
    "USER_NOT_LOGGED_IN": 0x101,
    "TOKEN_NOT_PRESENT": 0xE0,
    "PIN_INCORRECT": 0xA0,
    "PIN_LOCKED": 0xA4,
    "OPERATION_ACTIVE": 0x90,
    "OPERATION_NOT_INITIALIZED": 0x91,
    "BUFFER_TOO_SMALL": 0x150,
    "FUNCTION_FAILED": 0x06,
    "GENERAL_ERROR": 0x05,
    "HOST_MEMORY": 0x02,
    "VENDOR": 0x80000042,
}


def build_shim(directory: Path, source: Path = SOURCE) -> Path:
    """The compiled module. Skips loudly where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to run the tests of misbehaving PKCS#11 modules")
    module = directory / f"{source.stem}.so"
    flags = ["-Wall", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", module, source, "-ldl"], check=True, timeout=60)
    module.chmod(0o755)
    return module


@dataclass(frozen=True)
class Shim:
    """One token behind the shim."""

    token: SoftHSMToken
    module: Path
    directory: Path

    def config(self, **changes: object) -> TokenConfig:
        """The token as reached through the shim."""
        environment = {
            **self.token.env,
            "KEYD_SHIM_MODULE": str(self.token.module),
            "KEYD_SHIM_DIR": str(self.directory),
        }
        return config_for(self.token, module=self.module, environment=environment, **changes)

    def calls(self, name: str) -> int:
        """How often any worker has called this function since the token was made."""
        try:
            return (self.directory / f"{name}.calls").stat().st_size
        except FileNotFoundError:
            return 0

    def once(self, name: str, order: str) -> None:
        """Make the next call of `name` obey `order` (shim.c lists them)."""
        self._order(f"{name}.do", order)

    def thrice(self, name: str, order: str) -> None:
        """Make the next three calls of `name` obey `order`."""
        for kind in reversed(_NEXT):
            self._order(f"{name}.{kind}", order)

    def always(self, name: str, order: str) -> None:
        """Make every call of `name` obey `order` until `behave`."""
        self._order(f"{name}.always", order)

    def add_flags(self, flags: int) -> None:
        """Show further CK_TOKEN_INFO flags."""
        self._order("flags", f"{flags:x}")

    def limit_sessions(self, most: int) -> None:
        self._order("C_OpenSession.max", str(most))

    def obeyed(self, name: str) -> bool:
        """Whether the orders of `once` or `thrice` were carried out."""
        return not any((self.directory / f"{name}.{kind}").exists() for kind in _NEXT)

    def behave(self) -> None:
        """Take back every order."""
        for path in self.directory.iterdir():
            if path.suffix != ".calls":
                path.unlink(missing_ok=True)

    def _order(self, name: str, text: str) -> None:
        # Complete or absent: a worker may look at any moment.
        draft = self.directory / f".{name}.draft"
        draft.write_text(text + "\n")
        draft.replace(self.directory / name)
