"""Modules that crash, hang, print and lie take down one worker at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import pytest

from keyd.backends.state import StateBoard
from keyd.backends.tokens import TokenFleet
from keyd.domain.keys import Key
from keyd.domain.tokens import TokenState
from keyd.errors import BackendUnavailable, DeadlineExceeded, KeydError, SelfCheckFailed
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import CODES, Shim
from tests.fleets import (
    PATIENCE_S,
    item,
    make_key,
    running,
    sign_one,
    sign_when_back,
    wait_for_state,
    wait_until,
    worker_pids,
)
from tests.tally import Promise, tallied

FUNCTIONS = ("C_SignInit", "C_Sign")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_failed_call_costs_no_request(
    function: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """Any code, early or late (reliability D1): mended without another login."""
    with (
        tallied(Promise.TOKENS_RECOVER, "PKCS#11 return codes") as tally,
        running(shim.config(), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        for name, code in CODES.items():
            for when in ("early", "late"):
                shim.once(function, f"rv {code:x} {when}")
                sign_one(token, key)
                assert shim.obeyed(function), (name, when)
                tally.injected()
        assert token.status().state is TokenState.ONLINE
    assert shim.calls("C_Login") == 1


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("function", ["C_OpenSession", "C_FindObjectsInit", "C_FindObjects"])
def test_failures_while_the_session_is_renewed(
    function: str, when: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """Two failures in a row reach the supervisor; the request is retried once, all the same."""
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        sign_one(token, key)
        for code in CODES.values():
            shim.once("C_Sign", "rv 30 early")
            shim.once(function, f"rv {code:x} {when}")
            sign_one(token, key)
        wait_for_state(token, TokenState.ONLINE)


def test_a_lost_login_is_renewed_once(shim: Shim, journal: MemoryTokenJournal) -> None:
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        # Twice: the canary that judges the first failure sees the second.
        shim.always("C_SignInit", "rv 101 early")
        [outcome] = token.sign([item(key)], 1.0)
        assert isinstance(outcome, KeydError)
        shim.behave()
        wait_for_state(token, TokenState.ONLINE)
        sign_one(token, key)
    attempts = [each for each in journal.attempts if each is not None]
    assert shim.calls("C_Login") == len(attempts)


def test_a_failing_token_is_offline_and_comes_back(shim: Shim, journal: MemoryTokenJournal) -> None:
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        shim.always("C_Sign", "rv 32 early")
        started = time.monotonic()
        [outcome] = token.sign([item(key)], PATIENCE_S)
        assert isinstance(outcome, BackendUnavailable)
        assert time.monotonic() - started < 8.0  # measured: 2 s
        wait_for_state(token, TokenState.OFFLINE)
        shim.behave()
        wait_for_state(token, TokenState.ONLINE)
        sign_one(token, key)


@pytest.mark.parametrize("order", ["abort", "exit", "segfault"])
def test_a_crash_costs_one_request(order: str, shim: Shim, journal: MemoryTokenJournal) -> None:
    with (
        tallied(Promise.TOKENS_RECOVER, f"the module ends its process ({order})") as tally,
        running(shim.config(), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        shim.once("C_Sign", order)
        [outcome] = token.sign([item(key)], PATIENCE_S)
        crashed = time.monotonic()
        tally.injected()
        assert isinstance(outcome, BackendUnavailable)
        assert outcome.details["outcome"] == "UNKNOWN_RECORDED"
        # Callers that come during the recovery wait for it.
        sign_when_back(token, key)
        tally.recovered(time.monotonic() - crashed)
    assert shim.calls("C_Login") == 2


def test_a_hang_ends_at_the_callers_deadline_and_spares_others(
    new_shim: Callable[[str], Shim], journal: MemoryTokenJournal
) -> None:
    ill, well = new_shim("ill"), new_shim("well")
    configs = (ill.config(sign_timeout_s=0.6), well.config())
    with (
        tallied(Promise.TOKENS_RECOVER, "a PKCS#11 call hangs") as tally,
        running(*configs, journal=journal) as fleet,
    ):
        sick, sound = fleet.get("ill"), fleet.get("well")
        sick_key, sound_key = make_key(sick, journal), make_key(sound, journal)
        sign_one(sick, sick_key)
        ill.once("C_Sign", "hang")
        started = time.monotonic()
        [outcome] = sick.sign([item(sick_key)], 0.3)
        tally.injected()
        assert isinstance(outcome, DeadlineExceeded)
        assert outcome.details["outcome"] == "UNKNOWN_RECORDED"
        assert time.monotonic() - started < 2.0
        sign_one(sound, sound_key)
        wait_until(lambda: ill.calls("C_Login") == 2, "the hung worker to be replaced")
        wait_for_state(sick, TokenState.ONLINE)
        sign_one(sick, sick_key)
        tally.recovered(time.monotonic() - started)
    assert well.calls("C_Login") == 1


def test_a_hang_after_a_failure_ends_as_soon_as_any_other(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    """The look at a token that failed is bounded by a signature, not by an inventory's minutes."""
    with running(shim.config(), journal=journal) as fleet:
        key = make_key(fleet.get("test"), journal)
    # Known from the start, the key is the one that the token is looked at with.
    with running(shim.config(sign_timeout_s=1.0), journal=journal) as fleet:
        token = fleet.get("test")
        sign_one(token, key)
        [worker] = worker_pids()
        for function in (*FUNCTIONS, "C_FindObjectsInit"):
            shim.always(function, "hang")
        # The one failure that the worker itself does not try to mend.
        shim.once("C_SignInit", f"rv {CODES['USER_NOT_LOGGED_IN']:x} early")
        [outcome] = token.sign([item(key)], 1.0)
        assert isinstance(outcome, KeydError)
        wait_until(lambda: worker not in worker_pids(), "the worker's end")
        shim.behave()
        sign_when_back(token, key)


@pytest.mark.parametrize("function", ["C_Initialize", "C_OpenSession", "C_Login", "C_FindObjects"])
def test_a_module_that_hangs_at_the_start_is_given_up(
    function: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.once(function, "hang")
    config = shim.config(open_timeout_s=1.5, generate_timeout_s=1.5)
    with running(config, journal=journal) as fleet:
        token = fleet.get("test")
        if function == "C_Login":
            # Whether a try was spent is unknown: never again without an operator.
            wait_for_state(token, TokenState.PIN_REQUIRED)
            assert shim.calls("C_Login") == 1
            token.unlock(bytearray(shim.token.pin.encode()), PATIENCE_S)
        wait_for_state(token, TokenState.ONLINE)
        sign_one(token, make_key(token, journal))


def test_a_token_that_is_read_as_online_takes_requests(
    shim: Shim, journal: MemoryTokenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said to be ONLINE a moment before it took requests, and refused them by that name."""
    enter = StateBoard.enter
    asked: list[Future[Key]] = []

    def enter_and_be_asked(board: StateBoard, state: TokenState, detail: str = "") -> None:
        enter(board, state, detail)
        if state is TokenState.ONLINE:
            asked.append(callers.submit(make_key, fleet.get("test"), journal))
            wait(asked, timeout=2.0)

    shim.once("C_Initialize", "hang")
    with (
        ThreadPoolExecutor() as callers,
        running(shim.config(open_timeout_s=1.5), journal=journal) as fleet,
    ):
        assert fleet.get("test").status().state is TokenState.OFFLINE
        monkeypatch.setattr(StateBoard, "enter", enter_and_be_asked)
        wait_for_state(fleet.get("test"), TokenState.ONLINE)
        wait_until(lambda: bool(asked), "the state ONLINE is entered")
        sign_one(fleet.get("test"), asked[0].result(PATIENCE_S))


@pytest.mark.parametrize("order", ["abort", "exit"])
@pytest.mark.parametrize("function", ["C_Initialize", "C_GetTokenInfo", "C_Finalize"])
def test_a_module_that_crashes_at_start_or_end(
    function: str, order: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.once(function, order)
    with running(shim.config(), journal=journal) as fleet:
        wait_for_state(fleet.get("test"), TokenState.ONLINE)


def test_what_a_module_prints_goes_nowhere(
    shim: Shim, journal: MemoryTokenJournal, capfd: pytest.CaptureFixture[str]
) -> None:
    for function in ("C_Initialize", "C_Sign", "C_Finalize"):
        shim.always(function, "print")
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        sign_one(token, make_key(token, journal))
    printed = "".join(capfd.readouterr())
    assert shim.calls("C_Sign")
    assert "chatter" not in printed
    assert shim.token.pin not in printed


def test_a_wrong_canary_signature_quarantines_even_if_the_ledger_is_away(
    shim: Shim, journal: MemoryTokenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that signs something else is used no more, recorded or not."""
    tried = threading.Event()

    def away(token: str, reason: str | None) -> None:
        tried.set()
        raise BackendUnavailable("LEDGER_AWAY", "the ledger is away")

    config = shim.config(probe_interval_s=0.1, canary_interval_s=0.1, inventory_interval_s=0.1)
    with running(config, journal=journal) as fleet:
        make_key(fleet.get("test"), journal)
    with running(config, journal=journal) as fleet:
        token = fleet.get("test")
        monkeypatch.setattr(journal, "record_quarantine", away)
        shim.always("C_Sign", "flip")
        wait_for_state(token, TokenState.QUARANTINED)
        # A release before that would be of the time before this quarantine.
        assert tried.wait(PATIENCE_S)
        monkeypatch.undo()
        shim.behave()
        token.release()
        wait_for_state(token, TokenState.ONLINE)


def test_a_flipped_bit_in_the_pair_test_refuses_the_new_key(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        shim.always("C_Sign", "flip")
        with pytest.raises(SelfCheckFailed):
            make_key(token, journal)
        shim.behave()
        sign_one(token, make_key(token, journal))


def test_sessions_stay_within_a_small_limit(shim: Shim, journal: MemoryTokenJournal) -> None:
    """reliability D4: SoftHSM knows no limit and hides leaks."""
    shim.limit_sessions(6)
    with running(shim.config(sessions=16), journal=journal) as fleet:
        token = fleet.get("test")
        keys = [make_key(token, journal) for _ in range(3)]
        for i in range(30):
            if i % 3 == 0:
                shim.once("C_Sign", "rv 30 late")
            sign_one(token, keys[i % 3])
        make_key(token, journal)
    assert shim.calls("C_OpenSession") - shim.calls("C_CloseSession") <= 6


@pytest.mark.parametrize("how", ["cannot lock", "another function list at each call"])
def test_a_module_that_cannot_lock_gets_one_thread(
    how: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """p11-kit, or CKR_CANT_LOCK: the unmodified binding, and never a second thread."""
    config = shim.config(sessions=4)
    if how == "cannot lock":
        shim.once("C_Initialize", "rv a early")
    else:
        environment = {**config.environment, "KEYD_SHIM_FRESH": "1"}
        config = replace(config, environment=environment)
    with running(config, journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        sessions = shim.calls("C_OpenSession") - shim.calls("C_CloseSession")
        assert all(isinstance(each, bytes) for each in token.sign([item(key)] * 100, PATIENCE_S))
        # The anchor's and the one that works.
        assert sessions == shim.calls("C_OpenSession") - shim.calls("C_CloseSession") == 2
        shim.once("C_Sign", "abort")
        token.sign([item(key)], PATIENCE_S)
        sign_when_back(token, key)
    assert shim.calls("C_Login") == 2


def test_a_module_that_cannot_lock_cannot_have_parameters(shim: Shim) -> None:
    """The unmodified binding has none to give: without them it would be another token."""
    shim.once("C_Initialize", "rv a early")
    with running(shim.config(module_parameters="anything")) as fleet:
        status = fleet.get("test").status()
    assert status.state is TokenState.OFFLINE
    assert "module_parameters" in status.detail
    assert shim.calls("C_Login") == 0


def test_a_module_that_cannot_lock_gets_a_wrong_pin_once_too(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.token.pin_file.write_text("wrong")
    for _ in range(3):
        shim.once("C_Initialize", "rv a early")
        with running(shim.config(), journal=journal) as fleet:
            assert fleet.get("test").status().state is TokenState.PIN_REQUIRED
    assert shim.calls("C_Login") == 1
    attempt = journal.pin_attempt("test")
    assert attempt is not None
    assert attempt.rejected


def test_workers_started_together_all_come_up(
    new_shim: Callable[[str], Shim], journal: MemoryTokenJournal
) -> None:
    shims = [new_shim(f"t{number}") for number in range(4)]
    with running(*(each.config() for each in shims), journal=journal) as fleet:
        assert isinstance(fleet, TokenFleet)
        assert {token.status().state for token in fleet.all()} == {TokenState.ONLINE}
    assert [each.calls("C_Login") for each in shims] == [1] * 4
