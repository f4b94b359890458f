"""When a PIN may be presented: every combination, without a token."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keyd.backends.pins import LoginFailed, NotReady, PinRules
from keyd.domain.records import PinAttempt
from keyd.domain.tokens import TokenState
from keyd.wire.worker_pb2 import Failure, Login, PinState
from tests.fakes import MemoryTokenJournal

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FILE = "/run/pin"


class Token:
    """Keeps what was presented; accepts it unless `refuse` was called last."""

    def __init__(self, journal: MemoryTokenJournal) -> None:
        self._journal = journal
        self._refusal: LoginFailed | None = None
        self.presented: list[Login] = []

    def accept(self) -> None:
        self._refusal = None

    def refuse(self, failure: Failure | None) -> None:
        self._refusal = LoginFailed(failure)

    def present(self, login: Login) -> None:
        # Durable before C_Login: whoever looks now finds the attempt.
        assert self._journal.pin_attempt("hsm") is not None
        self.presented.append(login)
        if self._refusal is not None:
            raise self._refusal


@pytest.fixture
def journal() -> MemoryTokenJournal:
    return MemoryTokenJournal()


@pytest.fixture
def token(journal: MemoryTokenJournal) -> Token:
    return Token(journal)


@pytest.fixture
def rules(journal: MemoryTokenJournal) -> PinRules:
    return PinRules("hsm", journal, lambda: NOW)


def machine(rules: PinRules, token: Token, credential: str | None = FILE) -> NotReady | None:
    try:
        rules.machine_login(credential, PinState(), token.present)
    except NotReady as why:
        return why
    return None


def operator(rules: PinRules, token: Token, login: Login | None = None) -> NotReady | None:
    login = login or Login(typed=b"1234")
    try:
        rules.operator_login(login, login.WhichOneof("pin") or "", token.present)
    except NotReady as why:
        return why
    return None


def failed(kind: Failure.Kind.ValueType, *, presented: bool) -> Failure:
    return Failure(kind=kind, code="code", pin_presented=presented)


REJECTED = failed(Failure.KIND_PIN_INCORRECT, presented=True)
JUST_LOCKED = failed(Failure.KIND_PIN_LOCKED, presented=True)
UNKNOWN = failed(Failure.KIND_TOKEN_FAILED, presented=True)
UNREADABLE = failed(Failure.KIND_TOKEN_FAILED, presented=False)
TRIES_LOW = failed(Failure.KIND_PIN_TRIES_LOW, presented=False)
NO_FILE = failed(Failure.KIND_PIN_UNAVAILABLE, presented=False)
LOCKED = failed(Failure.KIND_PIN_LOCKED, presented=False)


def test_an_accepted_pin_may_be_presented_again(
    rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    for _ in range(3):
        assert machine(rules, token) is None
        assert journal.pin_attempt("hsm") is None
    assert [login.credential_file for login in token.presented] == [FILE] * 3
    assert not any(login.accept_count_low for login in token.presented)


@pytest.mark.parametrize("failure", [REJECTED, JUST_LOCKED, UNKNOWN, None])
def test_a_rejected_or_unknown_one_is_not(
    failure: Failure | None, rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    token.refuse(failure)
    first = machine(rules, token)
    assert first is not None
    assert first.spent
    assert first.state in (TokenState.PIN_REQUIRED, TokenState.PIN_LOCKED)
    attempt = journal.pin_attempt("hsm")
    assert attempt is not None
    assert attempt.rejected is (failure in (REJECTED, JUST_LOCKED))
    token.accept()
    again = machine(rules, token)
    assert again is not None
    assert not again.spent
    assert "keyd token unlock hsm" in again.detail
    assert len(token.presented) == 1


@pytest.mark.parametrize("failure", [UNREADABLE, TRIES_LOW, NO_FILE, LOCKED])
def test_one_that_was_never_presented_leaves_no_mark(
    failure: Failure, rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    token.refuse(failure)
    why = machine(rules, token)
    assert why is not None
    assert not why.spent
    assert journal.pin_attempt("hsm") is None


def test_a_typed_pin_that_is_accepted_clears_what_was_typed_before(
    rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    token.refuse(REJECTED)
    assert operator(rules, token) is not None
    assert machine(rules, token) is not None
    token.accept()
    assert operator(rules, token) is None
    assert journal.pin_attempt("hsm") is None
    assert rules.barred() == ""
    assert machine(rules, token) is None


@pytest.mark.parametrize("failure", [REJECTED, UNKNOWN])
@pytest.mark.parametrize("typed", [(), (REJECTED,), (UNKNOWN, TRIES_LOW, REJECTED)])
def test_a_typed_pin_says_nothing_of_the_file(
    failure: Failure,
    typed: tuple[Failure, ...],
    rules: PinRules,
    token: Token,
    journal: MemoryTokenJournal,
) -> None:
    """However many were typed: only the file's own acceptance lets a machine present it."""
    token.refuse(failure)
    machine(rules, token)
    mark = journal.pin_attempt("hsm")
    for refusal in typed:
        token.refuse(refusal)
        assert operator(rules, token) is not None
    token.accept()
    assert operator(rules, token) is None
    assert journal.pin_attempt("hsm") == mark
    assert "keyd token unlock hsm --retry-configured" in rules.barred()
    presented = len(token.presented)
    again = machine(rules, token)
    assert again is not None
    assert again.detail == rules.barred()
    assert len(token.presented) == presented
    assert operator(rules, token, Login(credential_file=FILE)) is None
    assert rules.barred() == ""
    assert machine(rules, token) is None


def test_a_file_that_is_configured_no_more_is_not_asked_for(rules: PinRules, token: Token) -> None:
    token.refuse(REJECTED)
    machine(rules, token)
    why = machine(rules, token, None)
    assert why is not None
    assert "--retry-configured" not in why.detail


def test_who_typed_a_pin_is_told_of_a_file_only_if_one_is_configured(
    rules: PinRules, token: Token
) -> None:
    assert rules.kept_back(FILE) == ""
    token.refuse(REJECTED)
    machine(rules, token)
    token.accept()
    assert operator(rules, token) is None
    told = rules.kept_back(FILE)
    # Not at once: a token that is logged in tries no PIN.
    assert "PIN_REQUIRED" in told
    assert "keyd token unlock hsm --retry-configured" in told
    assert rules.kept_back(None) == ""


def test_an_operator_sets_the_mark_aside_by_a_pin_that_is_accepted(
    rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    token.refuse(REJECTED)
    machine(rules, token)
    rejected = journal.pin_attempt("hsm")
    token.refuse(TRIES_LOW)
    assert operator(rules, token) is not None
    # Nothing was presented, so what is known of the last attempt still holds.
    assert journal.pin_attempt("hsm") == rejected
    file = Login(credential_file=FILE)
    token.refuse(REJECTED)
    why = operator(rules, token, file)
    assert why is not None
    assert why.reason == "PIN_REJECTED"
    token.accept()
    assert operator(rules, token, file) is None
    assert token.presented[-1].accept_count_low
    assert machine(rules, token) is None


def test_without_a_credential_nothing_is_presented(rules: PinRules, token: Token) -> None:
    why = machine(rules, token, None)
    assert why is not None
    assert why.state is TokenState.PIN_REQUIRED
    assert token.presented == []


def test_an_attempt_is_named_by_chance_and_never_by_the_pin(
    rules: PinRules, token: Token, journal: MemoryTokenJournal
) -> None:
    for _ in range(2):
        operator(rules, token)
    attempts = [each for each in journal.attempts if isinstance(each, PinAttempt)]
    assert len({each.credential for each in attempts}) == 2
    assert attempts[0].at == NOW
    assert "1234" not in repr(attempts)
