"""The misbehaving module of shim.c, compiled once per run and put in front of SoftHSM."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.backends.config import TokenConfig
from keyd.cli.development.layout import write_whole
from tests.daemon import Installation
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
class Orders:
    """What the modules do that find their orders in `directory`."""

    directory: Path

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


@dataclass(frozen=True)
class Shim(Orders):
    """One token behind the shim."""

    token: SoftHSMToken
    module: Path

    def config(self, **changes: object) -> TokenConfig:
        """The token as reached through the shim."""
        environment = {
            **self.token.env,
            **shim_environment(self.token.module, self.directory),
        }
        return config_for(self.token, module=self.module, environment=environment, **changes)


def shim_environment(behind: Path, directory: Path) -> dict[str, str]:
    """What tells a shim its module and its orders."""
    return {"KEYD_SHIM_MODULE": str(behind), "KEYD_SHIM_DIR": str(directory)}


def put_shim(installation: Installation, module: Path, *, sign_timeout_s: float = 2.0) -> Orders:
    """Have the installation's daemon reach its token through the shim.

    Orders count for its next start, too.
    """
    orders = Orders(installation.root / "shim")
    orders.directory.mkdir(mode=0o700)
    behind = Path(json.loads((installation.root / "token.json").read_text())["module"])
    variables = shim_environment(behind, orders.directory)
    added = "".join(f'{name} = "{value}", ' for name, value in variables.items())
    text = installation.config.read_text()
    text = text.replace(
        f'module = "{behind}"', f'module = "{module}"\nsign_timeout_s = {sign_timeout_s}'
    )
    text = text.replace("environment = { ", "environment = { " + added)
    write_whole(installation.config, text)
    return orders
