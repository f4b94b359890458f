"""What happens by itself: the log key is made, checkpoints are signed, old keys are retired."""

from __future__ import annotations

import threading

import structlog

from keyd.domain.tokens import TokenState
from keyd.errors import KeydError
from keyd.services.audit import ensure_log_key, sign_checkpoint
from keyd.services.rotation.retiring import retire_due
from keyd.services.world import World

_log = structlog.get_logger("keyd.daemon")
_SIGN_TIMEOUT_S = 10.0
_GENERATE_TIMEOUT_S = 120.0
_RETRY_S = 1.0


class Clockwork:
    """A thread that signs a checkpoint every `interval_s` if there is a log token.

    A daemon that cannot sign checkpoints still serves: its log is whole, only unsigned. In the same
    rhythm keys are deactivated whose grace time after a rotation is over.
    """

    def __init__(self, world: World, log_token: str, interval_s: float) -> None:
        self._world = world
        self._token = log_token
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._has_key = False
        self._failing = ""
        self._done = False
        self._thread = threading.Thread(target=self._run, name="clockwork", daemon=True)

    def start(self) -> None:
        """Do now what can be done, then go on in a thread."""
        if not self._token:
            _log.warning("checkpoints_off", hint="set audit.log_token to have the log signed")
        # Whoever waits for the daemon finds a signed log, if its token is there at all.
        self._done = self._tick()
        self._thread.start()

    def stop(self) -> None:
        """End; waits for a checkpoint that is being signed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_SIGN_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s if self._done else _RETRY_S):
            self._done = self._tick()

    def _tick(self) -> bool:
        """Do what is due; returns False if it should be tried again soon."""
        try:
            retired = retire_due(self._world)
        except KeydError as error:
            _log.error("retirement_failed", reason=error.reason, message=error.message)
        else:
            if retired:
                _log.info("rotations_ended", count=retired)
        return not self._token or self._sign()

    def _sign(self) -> bool:
        if self._world.tokens.get(self._token).status().state is not TokenState.ONLINE:
            return False
        try:
            if not self._has_key:
                key = ensure_log_key(self._world, self._token, _GENERATE_TIMEOUT_S)
                _log.info("log_key_ready", key=key.name, token=key.token)
                self._has_key = True
            signed = sign_checkpoint(self._world, _SIGN_TIMEOUT_S)
        except KeydError as error:
            self._complain(error)
            return False
        self._failing = ""
        _log.debug("checkpoint", size=signed.checkpoint.size)
        return True

    def _complain(self, error: KeydError) -> None:
        """Once per cause, not once per second."""
        if error.reason != self._failing:
            self._failing = error.reason
            _log.error("checkpoint_failed", reason=error.reason, message=error.message)
