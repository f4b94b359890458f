"""When a PIN may be presented: the one place that decides and records it.

A PIN that a machine may present is presented once; the attempt is durable before C_Login. Accepted,
it is cleared. Rejected, or if nobody knows how it ended, the record stays and no machine tries
again until an operator does.

A PIN that an operator types says nothing of a credential file that was rejected: the file stays
barred until an operator has it presented and it is accepted. Whether it has changed meanwhile is
not asked: systemd writes credentials anew at every start.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from keyd.domain.records import PinAttempt
from keyd.domain.tokens import TokenState
from keyd.ports import TokenJournal
from keyd.wire.worker_pb2 import Failure, Login, PinState

_TYPED = "typed"
_LOCKED = "the token has locked its user PIN; reset it as its security officer"


class NotReady(Exception):
    """The token cannot sign for now; `state` says whose move it is, `detail` tells an operator.

    `reason` is for the operator who asked for a login. `spent` True: a PIN was presented and not
    accepted, so the worker that did it must end.
    """

    def __init__(
        self, state: TokenState, detail: str, *, reason: str = "", spent: bool = False
    ) -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail
        self.reason = reason
        self.spent = spent


class LoginFailed(Exception):
    """What the worker answered to Login, None if it ended without an answer."""

    def __init__(self, failure: Failure | None) -> None:
        super().__init__(failure)
        self.failure = failure


class PinRules:
    """The attempts of one token."""

    def __init__(self, token: str, journal: TokenJournal, now: Callable[[], datetime]) -> None:
        self._token = token
        self._journal = journal
        self._now = now

    def machine_login(
        self, credential: str | None, pin: PinState, present: Callable[[Login], None]
    ) -> None:
        """Log in by the credential file, if a machine may. Raises: NotReady, KeydError."""
        attempt = self._journal.pin_attempt(self._token)
        state = TokenState.PIN_LOCKED if pin.locked else TokenState.PIN_REQUIRED
        if attempt is not None and attempt.details.get("source") == _TYPED:
            raise NotReady(
                state,
                f"the PIN {_how_it_ended(attempt)}; it is not presented again until an operator "
                f"unlocks: keyd token unlock {self._token}",
            )
        if attempt is not None and credential is not None:
            raise NotReady(state, self.barred())
        if credential is None:
            raise NotReady(state, f"an operator unlocks it: keyd token unlock {self._token}")
        self._present(Login(credential_file=credential), "credential", present)

    def barred(self) -> str:
        """Why no machine presents the configured PIN, for an operator; "" if one may.

        Raises: KeydError.
        """
        mark = _file_mark(self._journal.pin_attempt(self._token))
        if mark is None:
            return ""
        return (
            f"the configured PIN {_how_it_ended(mark)}; correct its file, then have it presented "
            f"once: keyd token unlock {self._token} --retry-configured"
        )

    def kept_back(self, credential: str | None) -> str:
        """`barred`, for an operator whose token is logged in by a PIN that was typed.

        "" without a configured PIN. Raises: KeydError.
        """
        mark = _file_mark(self._journal.pin_attempt(self._token))
        if mark is None or credential is None:
            return ""
        return (
            f"the configured PIN {_how_it_ended(mark)} and is kept back; correct its file now, and "
            "when the token asks for its PIN again (PIN_REQUIRED), have it presented once: "
            f"keyd token unlock {self._token} --retry-configured"
        )

    def operator_login(self, login: Login, source: str, present: Callable[[Login], None]) -> None:
        """Log in once because an operator asked. Raises: NotReady, KeydError."""
        login.accept_count_low = True
        self._present(login, source, present)

    def _present(self, login: Login, source: str, present: Callable[[Login], None]) -> None:
        before = self._journal.pin_attempt(self._token)
        mark = _file_mark(before) if source == _TYPED else None
        attempt = PinAttempt(
            token=self._token,
            credential=secrets.token_hex(16),
            rejected=False,
            at=self._now(),
            details={"source": source} | _carried(mark),
        )
        self._journal.record_pin_attempt(attempt, self._token)
        try:
            present(login)
        except LoginFailed as failed:
            raise self._settle(failed.failure, attempt, before) from failed
        self._journal.record_pin_attempt(mark, self._token)

    def _settle(
        self, failure: Failure | None, attempt: PinAttempt, before: PinAttempt | None
    ) -> NotReady:
        if failure is None:
            return _unknown("the worker ended during the login")
        if not failure.pin_presented:
            self._journal.record_pin_attempt(before, self._token)
            return _not_presented(failure)
        if failure.kind in (Failure.KIND_PIN_INCORRECT, Failure.KIND_PIN_LOCKED):
            self._journal.record_pin_attempt(replace(attempt, rejected=True), self._token)
            return _rejected(failure)
        return _unknown(f"the token answered {failure.code} to the login")


def _file_mark(attempt: PinAttempt | None) -> PinAttempt | None:
    """What is on record against the credential file, also below a typed PIN's own attempt."""
    if attempt is None or attempt.details.get("source") != _TYPED:
        return attempt
    if "file_at" not in attempt.details:
        return None
    return replace(
        attempt,
        credential=attempt.details["file_credential"],
        rejected=attempt.details["file_rejected"] == "yes",
        at=datetime.fromisoformat(attempt.details["file_at"]),
        details={"source": "credential"},
    )


def _carried(mark: PinAttempt | None) -> dict[str, str]:
    if mark is None:
        return {}
    return {
        "file_credential": mark.credential,
        "file_rejected": "yes" if mark.rejected else "unknown",
        "file_at": mark.at.isoformat(),
    }


def _how_it_ended(attempt: PinAttempt) -> str:
    what = "was rejected" if attempt.rejected else "had an unknown outcome"
    return f"presented at {attempt.at:%Y-%m-%dT%H:%M:%SZ} {what}"


def _not_presented(failure: Failure) -> NotReady:
    wanted = TokenState.PIN_REQUIRED
    match failure.kind:
        case Failure.KIND_PIN_LOCKED:
            return NotReady(TokenState.PIN_LOCKED, _LOCKED, reason="PIN_LOCKED")
        case Failure.KIND_PIN_TRIES_LOW if failure.code == "USER_PIN_FINAL_TRY":
            text = (
                "one PIN try is left and keyd never spends the last one; log in once with the "
                "vendor's tool, then unlock"
            )
            return NotReady(wanted, text, reason="PIN_TRIES_LOW")
        case Failure.KIND_PIN_TRIES_LOW:
            text = "the token has few PIN tries left; check the PIN, then unlock by hand"
            return NotReady(wanted, text, reason="PIN_TRIES_LOW")
        case Failure.KIND_PIN_UNAVAILABLE:
            text = (
                f"the PIN file cannot be used ({failure.code}); it must be a regular file of mode "
                "0600, owned by keyd's user or root"
            )
            return NotReady(wanted, text, reason="PIN_FILE_UNUSABLE")
    return NotReady(TokenState.OFFLINE, f"the token cannot be read ({failure.code})")


def _rejected(failure: Failure) -> NotReady:
    if failure.kind == Failure.KIND_PIN_LOCKED:
        return NotReady(TokenState.PIN_LOCKED, _LOCKED, reason="PIN_LOCKED", spent=True)
    text = f"the token rejected the PIN ({failure.code}); correct it, then unlock by hand"
    return NotReady(TokenState.PIN_REQUIRED, text, reason="PIN_REJECTED", spent=True)


def _unknown(why: str) -> NotReady:
    text = f"{why}; whether a PIN try was spent is unknown, so an operator unlocks"
    return NotReady(TokenState.PIN_REQUIRED, text, reason="PIN_OUTCOME_UNKNOWN", spent=True)
