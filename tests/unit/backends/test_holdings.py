"""Which key speaks for a token, and what one key's refusal to sign says of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyd.backends.config import TokenConfig
from keyd.backends.dialogue import WorkerRefused
from keyd.backends.events import EventBus
from keyd.backends.holdings import Holdings
from keyd.backends.reconcile import identity_of
from keyd.backends.state import StateBoard
from keyd.domain.keys import Key, KeyState, Scheme
from keyd.domain.tokens import FoundKey
from keyd.wire.worker_pb2 import Failure
from tests.fakes import MemoryTokenJournal

BROKEN = Failure(kind=Failure.KIND_PAIR_BROKEN, code="PAIR_TEST")
DISABLED = Failure(kind=Failure.KIND_NOT_SUPPORTED, code="MechanismInvalid")
FAILED = Failure(kind=Failure.KIND_TOKEN_FAILED, code="GeneralError")


class Clock:
    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Token:
    """In place of the dialogue: shows every key, refuses by those of `refusing`, counts tests.

    The next `failing` tests fail, whichever key is tested.
    """

    def __init__(self) -> None:
        self.found: list[FoundKey] = []
        self.refusing: dict[str, Failure] = {}
        self.tested: list[str] = []
        self.failing = 0

    def inventory(self) -> tuple[FoundKey, ...]:
        return tuple(self.found)

    def probe(self) -> None: ...

    def self_check(self, keys: Sequence[Key]) -> dict[str, Failure]:
        self.tested += [key.name for key in keys]
        return {key.name: why for key in keys if (why := self._refusal(key.name))}

    def _refusal(self, name: str) -> Failure | None:
        if self.failing:
            self.failing -= 1
            return FAILED
        return self.refusing.get(name)


class Rig:
    """Three keys; `a` is the one that speaks for the token."""

    def __init__(self) -> None:
        journal = MemoryTokenJournal()
        self.registered = journal.registered
        self.token = Token()
        self.board = StateBoard("hsm", Clock(), EventBus())
        config = TokenConfig("hsm", Path("/module.so"), "pkcs11:token=hsm")
        self.holdings = Holdings(config, journal, self.token, self.board)  # type: ignore[arg-type]
        self.keys: dict[str, Key] = {}
        for name in "abc":
            found = FoundKey(
                cka_id=name.encode(),
                label=name,
                public_der=b"public " + name.encode(),
                scheme=Scheme.ECDSA_P256,
                rsa_bits=0,
                healthy=True,
                problem="",
            )
            self.token.found.append(found)
            self.keys[name] = journal.register("hsm", name, found)

    def unusable(self) -> str:
        """The names of the keys that may not sign; the status tells the same ones."""
        reasons = self.holdings.unusable
        names = [name for name, key in self.keys.items() if identity_of(key) in reasons]
        assert self.board.status.missing_keys == tuple(names)
        return "".join(names)

    def look(self) -> str:
        """Keys and a signature; the names of the keys that were tested."""
        self.token.tested.clear()
        self.holdings.take_stock()
        self.holdings.check_canary()
        return "".join(self.token.tested)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(
    ("why", "tested"), [(BROKEN, "abcb"), (DISABLED, "abcb"), (FAILED, "abcab")]
)
def test_a_key_that_does_not_sign_at_the_start_stays_aside(
    rig: Rig, why: Failure, tested: str
) -> None:
    rig.token.refusing["a"] = why
    assert rig.look() == tested
    for _ in range(3):
        assert rig.look() == "ab"
        assert rig.unusable() == "a"
    del rig.token.refusing["a"]
    assert rig.look() == "aa"
    assert rig.unusable() == ""


@pytest.mark.parametrize("why", [BROKEN, DISABLED])
def test_a_key_that_stops_signing_leaves_its_place_to_the_next(rig: Rig, why: Failure) -> None:
    rig.look()
    rig.token.refusing.update(a=why, b=why)
    rig.holdings.check_canary()
    assert rig.unusable() == "ab"


def test_a_failure_that_may_be_the_tokens_is_no_keys_fault(rig: Rig) -> None:
    rig.look()
    rig.token.refusing["a"] = FAILED
    with pytest.raises(WorkerRefused):
        rig.holdings.check_canary()
    assert rig.unusable() == ""


def test_a_key_that_fails_after_a_recovery_is_told_from_a_failing_token(rig: Rig) -> None:
    rig.look()
    rig.token.refusing["a"] = FAILED
    rig.holdings.test_all_again()
    assert rig.look() == "abcab"
    assert rig.unusable() == "a"
    rig.token.refusing.update(b=FAILED, c=FAILED)
    rig.holdings.test_all_again()
    with pytest.raises(WorkerRefused):
        rig.look()


def test_a_token_that_comes_to_itself_while_it_is_tested_loses_no_key(rig: Rig) -> None:
    rig.look()
    rig.token.failing = 1 + 2
    with pytest.raises(WorkerRefused):
        rig.holdings.check_canary()
    rig.holdings.test_all_again()
    assert rig.look() == "abcaba"
    assert rig.unusable() == ""


def test_a_busy_token_is_asked_by_keys_set_aside_alone(rig: Rig) -> None:
    def look(after_s: float) -> str:
        rig.token.tested.clear()
        rig.holdings.check_set_aside(time.monotonic() + after_s)
        return "".join(rig.token.tested)

    rig.look()
    assert look(100) == ""
    rig.token.refusing["b"] = FAILED
    rig.holdings.test_all_again()
    rig.look()
    assert (look(0), look(3)) == ("", "b")
    del rig.token.refusing["b"]
    assert look(3) == "b"
    assert rig.unusable() == ""


def test_keys_that_all_refuse_for_their_own_sake_leave_a_token_that_works(rig: Rig) -> None:
    """New ones can be made on it."""
    rig.token.refusing.update(a=BROKEN, b=BROKEN, c=DISABLED)
    assert rig.look() == "abc"
    assert rig.unusable() == "abc"


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.DEACTIVATED])
def test_keys_that_all_cease_to_sign_are_worth_one_recovery(rig: Rig, state: KeyState) -> None:
    """As the module refuses all of them that was opened while its token booted."""
    rig.registered[-1] = replace(rig.registered[-1], state=state)
    rig.look()
    rig.token.refusing.update(a=DISABLED, b=DISABLED, c=DISABLED)
    with pytest.raises(WorkerRefused):
        rig.holdings.check_canary()
    rig.token.refusing.clear()
    assert rig.look() == "abca"
    assert rig.unusable() == ""


def test_keys_that_all_refuse_after_a_recovery_cost_no_second_one(rig: Rig) -> None:
    rig.look()
    rig.token.refusing.update(a=DISABLED, b=DISABLED, c=DISABLED)
    with pytest.raises(WorkerRefused):
        rig.holdings.check_canary()
    for _ in range(3):
        assert rig.look() == "abc"
        assert rig.unusable() == "abc"


def test_a_missing_key_keeps_no_token_from_being_tested(rig: Rig) -> None:
    """However seldom it is looked at: keys that are looked for each time come second."""
    rig.token.found.pop()
    assert rig.look() == "aba"
    for i in range(1, 4):
        rig.token.tested.clear()
        rig.holdings.check_what_is_due(time.monotonic() + 100 * i)
        assert rig.token.tested == ["a"]
