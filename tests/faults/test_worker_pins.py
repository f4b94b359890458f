"""keyd never spends a PIN try that no operator asked for. C_Login is counted where it arrives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.backends.token import WorkerToken
from keyd.domain.records import PinAttempt
from keyd.domain.tokens import TokenEventKind, TokenState
from keyd.errors import BackendUnavailable, DeadlineExceeded, KeydError, PinRejected
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import Shim
from tests.fleets import (
    PATIENCE_S,
    item,
    make_key,
    running,
    sign_one,
    sign_when_back,
    wait_for_state,
)
from tests.softhsm import write_secret
from tests.tally import Promise, Tally, tallied

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000  # CK_TOKEN_INFO flags


@pytest.fixture
def wrong_pin(shim: Shim) -> Shim:
    shim.token.pin_file.unlink()
    write_secret(shim.token.pin_file, "wrong-pin")
    return shim


def unlock(token: WorkerToken, pin: str) -> TokenState:
    return token.unlock(bytearray(pin.encode()), PATIENCE_S).state


def refused(token: WorkerToken, pin: str | None) -> str:
    typed = None if pin is None else bytearray(pin.encode())
    with pytest.raises(KeydError) as error:
        token.unlock(typed, PATIENCE_S)
    assert typed is None or typed == bytes(len(typed))
    return error.value.reason


def test_a_wrong_pin_is_presented_once_over_many_starts(
    wrong_pin: Shim, journal: MemoryTokenJournal
) -> None:
    """reliability T9, D5."""
    with tallied(Promise.PIN_SPARED, "starts with a wrong PIN") as tally:
        _start_with_a_wrong_pin(wrong_pin, journal, tally)


def _start_with_a_wrong_pin(wrong_pin: Shim, journal: MemoryTokenJournal, tally: Tally) -> None:
    for _ in range(6):
        tally.injected()
        with running(wrong_pin.config(), journal=journal) as fleet:
            token = fleet.get("test")
            assert token.status().state is TokenState.PIN_REQUIRED
            with pytest.raises(PinRejected) as error:
                token.find(b"any", PATIENCE_S)
            assert error.value.reason == "PIN_REQUIRED"
    assert wrong_pin.calls("C_Login") == 1
    attempt = journal.pin_attempt("test")
    assert attempt is not None
    assert attempt.rejected


def test_an_operator_sets_a_rejected_pin_right(
    wrong_pin: Shim, journal: MemoryTokenJournal
) -> None:
    with running(wrong_pin.config(), journal=journal) as fleet:
        token = fleet.get("test")
        assert refused(token, "wrong again") == "PIN_REJECTED"
        assert refused(token, None) == "PIN_REJECTED"
        assert wrong_pin.calls("C_Login") == 3
        unlocked = token.unlock(bytearray(wrong_pin.token.pin.encode()), PATIENCE_S)
        assert unlocked.state is TokenState.ONLINE
        assert "--retry-configured" in unlocked.detail
        assert "when the token asks for its PIN again" in unlocked.detail
        assert token.status().detail == ""
        # Who does it too early is not left to believe that it was done.
        too_early = token.unlock(None, PATIENCE_S)
        assert "no PIN was tried; the configured PIN presented at" in too_early.detail
        assert "was rejected and is kept back" in too_early.detail
        assert wrong_pin.calls("C_Login") == 4
        key = make_key(token, journal)
        sign_one(token, key)
        # The typed PIN dies with the worker, and the file is not presented in its place.
        wrong_pin.once("C_Sign", "abort")
        [outcome] = token.sign([item(key)], PATIENCE_S)
        assert isinstance(outcome, BackendUnavailable)
        wait_for_state(token, TokenState.PIN_REQUIRED)
    for _ in range(2):
        with running(wrong_pin.config(), journal=journal) as fleet:
            token = fleet.get("test")
            assert token.status().state is TokenState.PIN_REQUIRED
            assert "--retry-configured" in token.status().detail
    assert wrong_pin.calls("C_Login") == 4
    wrong_pin.token.pin_file.unlink()
    write_secret(wrong_pin.token.pin_file, wrong_pin.token.pin)
    for expected in (TokenState.PIN_REQUIRED, TokenState.ONLINE):
        with running(wrong_pin.config(), journal=journal) as fleet:
            token = fleet.get("test")
            assert token.status().state is expected
            if expected is TokenState.PIN_REQUIRED:
                # A machine does not ask what has become of the file; an operator has it presented.
                assert token.unlock(None, PATIENCE_S).state is TokenState.ONLINE
    assert wrong_pin.calls("C_Login") == 6


def test_a_pin_source_that_is_given_up_is_not_spoken_of(
    wrong_pin: Shim, journal: MemoryTokenJournal
) -> None:
    with running(wrong_pin.config(), journal=journal) as fleet:
        assert fleet.get("test").status().state is TokenState.PIN_REQUIRED
    with running(wrong_pin.config(pin_source="prompt"), journal=journal) as fleet:
        unlocked = fleet.get("test").unlock(bytearray(wrong_pin.token.pin.encode()), PATIENCE_S)
        assert (unlocked.state, unlocked.detail) == (TokenState.ONLINE, "")


class Ailing(MemoryTokenJournal):
    """Tells of PIN attempts until a token was let in by a typed one."""

    away = False

    def record_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:
        before = self.pin_attempt(token)
        super().record_pin_attempt(attempt, token)
        self.away = before is not None and before.details["source"] == "typed"

    def pin_attempt(self, token: str) -> PinAttempt | None:
        if self.away:
            raise BackendUnavailable("LEDGER_STALLED", "the ledger is away")
        return super().pin_attempt(token)


def test_an_unlock_that_went_well_is_told_so_without_the_ledger(wrong_pin: Shim) -> None:
    journal = Ailing()
    with running(wrong_pin.config(), journal=journal) as fleet:
        token = fleet.get("test")
        assert unlock(token, wrong_pin.token.pin) is TokenState.ONLINE
        assert journal.away


def test_without_a_pin_source_only_an_operator_unlocks(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    with running(shim.config(pin_source="prompt"), journal=journal) as fleet:
        token = fleet.get("test")
        assert token.status().state is TokenState.PIN_REQUIRED
        assert shim.calls("C_Login") == 0
        with pytest.raises(PinRejected) as error:
            make_key(token, journal)
        assert error.value.reason == "PIN_REQUIRED"
        assert refused(token, None) == "PIN_WANTED"
        assert unlock(token, shim.token.pin) is TokenState.ONLINE
        key = make_key(token, journal)
        # A typed PIN lives in the worker and dies with it.
        shim.once("C_Sign", "abort")
        [outcome] = token.sign([item(key)], PATIENCE_S)
        assert isinstance(outcome, BackendUnavailable)
        wait_for_state(token, TokenState.PIN_REQUIRED)
        assert unlock(token, shim.token.pin) is TokenState.ONLINE
        sign_one(token, key)
    assert shim.calls("C_Login") == 2


def test_a_watcher_is_told_that_a_pin_is_wanted(shim: Shim, journal: MemoryTokenJournal) -> None:
    with running(shim.config(pin_source="prompt"), journal=journal) as fleet:
        token = fleet.get("test")
        events = fleet.watch(lambda: False)
        assert next(events).status.state is TokenState.PIN_REQUIRED
        assert refused(token, "wrong") == "PIN_REJECTED"
        wanted = next(event for event in events if event.kind is TokenEventKind.PIN_WANTED)
        assert "rejected" in wanted.status.detail


@pytest.mark.parametrize("order", ["abort", "exit", "rv 30 late", "rv 80000042 early"])
def test_an_unknown_outcome_counts_as_spent(
    order: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.once("C_Login", order)
    for _ in range(3):
        with running(shim.config(), journal=journal) as fleet:
            assert fleet.get("test").status().state is TokenState.PIN_REQUIRED
    assert shim.calls("C_Login") == 1
    with running(shim.config(), journal=journal) as fleet:
        assert fleet.get("test").unlock(None, PATIENCE_S).state is TokenState.ONLINE
    assert shim.calls("C_Login") == 2


def test_an_unlocking_without_an_answer_is_not_to_be_repeated_blindly(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.once("C_Login", "rv a0 early")
    with running(shim.config(), journal=journal) as fleet:
        shim.once("C_Login", "delay 2000")
        with pytest.raises(DeadlineExceeded, match="may have been tried") as late:
            fleet.get("test").unlock(None, 0.5)
        assert late.value.details["outcome"] == "UNKNOWN_RECORDED"


def test_a_pin_locked_by_the_token_is_no_machines_business(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    shim.once("C_Login", "rv a4 early")
    for _ in range(3):
        with running(shim.config(), journal=journal) as fleet:
            token = fleet.get("test")
            assert token.status().state in (TokenState.PIN_LOCKED, TokenState.PIN_REQUIRED)
    assert shim.calls("C_Login") == 1


@pytest.mark.parametrize(
    ("flags", "state", "reason"),
    [
        (COUNT_LOW, TokenState.PIN_REQUIRED, ""),
        (FINAL_TRY, TokenState.PIN_REQUIRED, "PIN_TRIES_LOW"),
        (COUNT_LOW | FINAL_TRY, TokenState.PIN_REQUIRED, "PIN_TRIES_LOW"),
        (LOCKED, TokenState.PIN_LOCKED, "PIN_LOCKED"),
    ],
)
def test_a_token_that_asks_for_care_gets_no_pin_from_a_machine(
    flags: int, state: TokenState, reason: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """The operator may spend a low count, but nobody the last try."""
    shim.add_flags(flags)
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        assert token.status().state is state
        assert shim.calls("C_Login") == 0
        assert journal.pin_attempt("test") is None
        if reason:
            assert refused(token, shim.token.pin) == reason
            assert shim.calls("C_Login") == 0
            shim.behave()
        assert unlock(token, shim.token.pin) is TokenState.ONLINE


def _readable(path: Path) -> None:
    path.chmod(0o644)


def _group_readable(path: Path) -> None:
    os.chown(path, -1, 65534)
    path.chmod(0o640)


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _gone(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_text("")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _foreign(path: Path) -> None:
    os.chown(path, 65534, -1)


@pytest.mark.parametrize(
    "spoil", [_readable, _group_readable, _linked, _gone, _empty, _pipe, _foreign]
)
def test_a_pin_file_that_is_not_kept_safely_is_not_used(
    spoil: Callable[[Path], None], shim: Shim, journal: MemoryTokenJournal
) -> None:
    if spoil in (_group_readable, _foreign) and os.geteuid():
        pytest.skip("only root can give files away")
    spoil(shim.token.pin_file)
    with running(shim.config(), journal=journal) as fleet:
        status = fleet.get("test").status()
        assert status.state is TokenState.PIN_REQUIRED
        assert "PIN" in status.detail
    assert shim.calls("C_Login") == 0
    assert journal.pin_attempt("test") is None


def test_a_systemd_credential_unlocks_at_boot(
    shim: Shim,
    journal: MemoryTokenJournal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    # Mode 0440 with root's group is what systemd's ACL for the service's user looks like.
    secret = write_secret(credentials / "token-pin", shim.token.pin)
    if os.geteuid() == 0:
        secret.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with running(shim.config(pin_source="credential:token-pin"), journal=journal) as fleet:
        assert fleet.get("test").status().state is TokenState.ONLINE


def test_a_credential_without_its_directory_is_explained(
    shim: Shim, journal: MemoryTokenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with running(shim.config(pin_source="credential:token-pin"), journal=journal) as fleet:
        status = fleet.get("test").status()
        assert status.state is TokenState.OFFLINE
        assert "LoadCredential" in status.detail
    assert shim.calls("C_Login") == 0


def test_each_recovery_presents_the_pin_once(shim: Shim, journal: MemoryTokenJournal) -> None:
    fault = "the module aborts in C_Sign"
    with (
        tallied(Promise.PIN_SPARED, fault) as tally,
        running(shim.config(), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        for crashes in range(1, 4):
            shim.once("C_Sign", "abort")
            token.sign([item(key)], PATIENCE_S)
            tally.injected()
            # Each recovery waits longer than the one before, beyond what callers are kept waiting.
            sign_when_back(token, key)
            assert shim.calls("C_Login") == 1 + crashes
    recorded = [attempt is not None for attempt in journal.attempts]
    assert recorded == [True, False] * 4


def test_the_pin_is_in_no_record_and_no_environment(
    shim: Shim, journal: MemoryTokenJournal, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        sign_one(token, make_key(token, journal))
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        workers = {pid for file in children for pid in file.read_text().split()}
        assert workers
        for pid in workers:
            process = Path("/proc") / pid
            assert shim.token.pin.encode() not in (process / "cmdline").read_bytes()
            # What ends meanwhile, as workers of earlier tests may, has no environment any more.
            with contextlib.suppress(ProcessLookupError):
                if os.access(process / "environ", os.R_OK):
                    assert shim.token.pin.encode() not in (process / "environ").read_bytes()
    assert shim.token.pin not in repr(journal.attempts)
    assert shim.token.pin not in "".join(capfd.readouterr())
