"""From nothing, or from a confused worker, to a token that may be served.

Steps 1 and 2 of the recovery ladder, a new session and a new search, are the worker's own. Here are
the rest: a module initialised afresh (4), a new worker (5), and with each the checks that must pass
before and after the one login (3) that it may cost.
"""

from __future__ import annotations

import contextlib
import os

import structlog

from keyd.backends.config import TokenConfig, credential_file
from keyd.backends.dialogue import Dialogue, WorkerLost, WorkerRefused
from keyd.backends.holdings import Holdings
from keyd.backends.link import WorkerLink
from keyd.backends.pins import NotReady, PinRules
from keyd.errors import KeydError, PinRejected
from keyd.wire.worker_pb2 import Failure, Login, Opened

_log = structlog.get_logger(__name__)

# What climbing, and looking after a token, may end with.
FAILURES = (NotReady, KeydError, WorkerRefused, WorkerLost, OSError)


class Ladder:
    """Climbed by the token's own thread, one climb at a time."""

    def __init__(
        self,
        config: TokenConfig,
        link: WorkerLink,
        ask: Dialogue,
        holdings: Holdings,
        pins: PinRules,
    ) -> None:
        self._config = config
        self._link = link
        self._ask = ask
        self._holdings = holdings
        self._pins = pins

    def climb(self, operator: Login | None = None) -> Opened:
        """Open the token, log in by the credential or as an operator asked, check what it holds.

        Raises: any of FAILURES.
        """
        opened = self._open()
        self._holdings.check_identity(opened)
        if opened.login_required:
            self._log_in(opened, operator)
        self._holdings.take_stock(afresh=True)
        try:
            # Not before: which key to try is known only now.
            self._holdings.check_canary()
        except WorkerRefused:
            # The token let us in: perhaps only this key fails.
            self._holdings.test_all_again()
            raise
        self._holdings.pin_identity(opened)
        return opened

    def operator_login(self, pin: bytearray | None) -> Login:
        """What to present when an operator wants a login. Raises: PinRejected, InvalidRequest."""
        if pin is not None:
            return Login(typed=bytes(pin))
        credential = credential_file(self._config, os.environ)
        if credential is None:
            raise PinRejected(
                "PIN_WANTED", f"token {self._config.name} has no pin_source; type its PIN"
            )
        return Login(credential_file=credential)

    def kept_back(self) -> str:
        """What an operator must know of the configured PIN while the token is logged in.

        "" if there is nothing, or if it cannot be told: that spoils no login that went well.
        """
        with contextlib.suppress(KeydError):
            return self._pins.kept_back(credential_file(self._config, os.environ))
        return ""

    def _open(self) -> Opened:
        if self._link.up:
            try:
                return self._ask.reopen()
            except (WorkerRefused, WorkerLost) as error:
                if _not_there(error):
                    raise
                self._link.end()
        self._link.spawn()
        try:
            return self._ask.open()
        except (WorkerRefused, WorkerLost) as error:
            # A worker whose module works can look for the token again; others are of no use.
            if not _not_there(error):
                self._link.end()
            raise

    def _log_in(self, opened: Opened, operator: Login | None) -> None:
        if operator is not None:
            source = operator.WhichOneof("pin") or ""
            self._pins.operator_login(operator, source, self._ask.login)
        else:
            self._holdings.demand_shown_keys()
            credential = credential_file(self._config, os.environ)
            self._pins.machine_login(credential, opened.pin, self._ask.login)
        _log.info("token_logged_in", token=self._config.name)


def words_for(error: Exception) -> str:
    """One of FAILURES in words for an operator."""
    match error:
        case NotReady():
            return error.detail
        case KeydError():
            return error.message
        case WorkerRefused() if _not_there(error):
            return f"the token is not there ({error.failure.code})"
        case WorkerRefused() if error.failure.code == "MODULE_PARAMETERS":
            return "the module refuses its module_parameters, or demands some; correct them"
        case WorkerRefused() if error.failure.code.startswith("SANDBOX_"):
            why = error.failure.code.removeprefix("SANDBOX_")
            return f"the worker's sandbox cannot be set up ({why}); install libseccomp2"
        case WorkerRefused():
            return f"the module failed ({error.failure.code})"
        case WorkerLost():
            return f"the worker was lost: {error}"
    return f"the worker cannot be started ({type(error).__name__})"


def _not_there(error: WorkerRefused | WorkerLost) -> bool:
    return isinstance(error, WorkerRefused) and error.failure.kind == Failure.KIND_TOKEN_NOT_FOUND
