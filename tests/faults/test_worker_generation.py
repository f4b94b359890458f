"""Key generations that fail: tried once more if nothing was made, else left as a stray."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest

from keyd.backends.token import WorkerToken
from keyd.errors import BackendUnavailable, InvalidRequest, KeydError
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import Shim
from tests.fleets import P256, PATIENCE_S, config_for, make_key, running, sign_one
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied

GENERATE = "C_GenerateKeyPair"


@pytest.fixture
def token(shim: Shim, journal: MemoryTokenJournal) -> Iterator[WorkerToken]:
    with running(shim.config(), journal=journal) as fleet:
        yield fleet.get("test")


# SoftHSM's answers beside a search of another thread: GENERAL_ERROR, TEMPLATE_INCONSISTENT.
@pytest.mark.parametrize("code", ["5", "d1"])
def test_a_generation_that_made_nothing_is_tried_once_more(
    code: str, token: WorkerToken, shim: Shim, journal: MemoryTokenJournal
) -> None:
    with tallied(Promise.TOKENS_RECOVER, "a key generation fails") as tally:
        shim.once(GENERATE, f"rv {code} early")
        tally.injected()
        sign_one(token, make_key(token, journal))
        assert shim.calls(GENERATE) == 2
    assert token.status().strays == 0


def test_a_generation_that_keeps_failing_is_not_tried_a_third_time(
    token: WorkerToken, shim: Shim
) -> None:
    shim.always(GENERATE, "rv 5 early")
    with pytest.raises(BackendUnavailable, match="GeneralError"):
        token.generate(P256, secrets.token_bytes(16), "test", PATIENCE_S)
    assert shim.calls(GENERATE) == 2


def test_a_token_that_cannot_generate_is_asked_once(token: WorkerToken, shim: Shim) -> None:
    shim.always(GENERATE, "rv 70 early")  # MECHANISM_INVALID
    with pytest.raises(InvalidRequest):
        token.generate(P256, secrets.token_bytes(16), "test", PATIENCE_S)
    assert shim.calls(GENERATE) == 1


def test_a_pair_made_by_a_failed_generation_is_a_stray(token: WorkerToken, shim: Shim) -> None:
    """A second pair of the same CKA_ID would make both unusable for ever."""
    cka_id = secrets.token_bytes(16)
    shim.once(GENERATE, "rv 5 late")
    with pytest.raises(BackendUnavailable, match="GeneralError"):
        token.generate(P256, cka_id, "test", PATIENCE_S)
    assert shim.calls(GENERATE) == 1
    assert [found.cka_id for found in token.inventory(PATIENCE_S)] == [cka_id]


@pytest.mark.slow(seconds=40)
def test_generations_beside_searches_succeed(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """SoftHSM itself fails about one such generation in a hundred."""
    ended = threading.Event()
    failures: list[KeydError] = []

    with (
        tallied(Promise.TOKENS_RECOVER, "key generations beside searches") as tally,
        running(config_for(softhsm, sessions=4), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)

        def search() -> None:
            while not ended.is_set():
                try:
                    token.find(key.cka_id, PATIENCE_S)
                except KeydError as error:
                    failures.append(error)

        searchers = [threading.Thread(target=search) for _ in range(3)]
        for each in searchers:
            each.start()
        try:
            for _ in range(120):
                sign_one(token, make_key(token, journal))
                tally.injected()
        finally:
            ended.set()
            for each in searchers:
                each.join()
    assert failures == []
