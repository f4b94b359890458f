"""Tokens that go away, come back, are wiped, or turn into others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyd.backends.queue import RequestQueue
from keyd.backends.token import WorkerToken
from keyd.domain.keys import Key
from keyd.domain.public_keys import verify
from keyd.domain.tokens import TokenState
from keyd.errors import (
    BackendUnavailable,
    KeydError,
    NotFound,
    SelfCheckFailed,
)
from tests.fakes import MemoryTokenJournal
from tests.faults.shim import Shim
from tests.fleets import (
    PATIENCE_S,
    config_for,
    item,
    make_key,
    running,
    sign_one,
    sign_when_back,
    wait_for_state,
    wait_until,
)
from tests.softhsm import SoftHSMToken, create_softhsm
from tests.tally import Promise, tallied


def test_a_removed_token_is_offline_and_returns(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    """reliability D6: UNAVAILABLE within 2 s, usable again within 3 s, without a restart."""
    tokens = softhsm.directory / "tokens"
    with (
        tallied(Promise.TOKENS_RECOVER, "the token is removed and returned") as tally,
        running(config_for(softhsm), journal=journal) as fleet,
    ):
        token = fleet.get("test")
        key = make_key(token, journal)
        tokens.rename(softhsm.directory / "away")
        tally.injected()
        started = time.monotonic()
        [outcome] = token.sign([item(key)], PATIENCE_S)
        assert isinstance(outcome, BackendUnavailable)
        assert time.monotonic() - started < 8.0  # measured: 2 s
        wait_for_state(token, TokenState.OFFLINE)
        (softhsm.directory / "away").rename(tokens)
        returned = time.monotonic()
        sign_when_back(token, key)
        tally.recovered(time.monotonic() - returned)
        wait_for_state(token, TokenState.ONLINE)
        assert token.status().missing_keys == ()


def test_a_removed_token_is_noticed_by_the_probe_alone(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    with running(config_for(softhsm, probe_interval_s=0.2), journal=journal) as fleet:
        token = fleet.get("test")
        (softhsm.directory / "tokens").rename(softhsm.directory / "away")
        wait_for_state(token, TokenState.OFFLINE)


def reinitialise(token: SoftHSMToken, pin: str) -> None:
    """Another process wipes the token: same slot, same serial, no key (facts, section 5)."""
    slots = softhsm_util(token, "--show-slots")
    slot = next(line.split()[1] for line in slots.splitlines() if line.startswith("Slot "))
    so_pin = token.so_pin_file.read_text().strip()
    wipe = ["--init-token", "--slot", slot, "--label", token.label, "--pin", pin]
    softhsm_util(token, *wipe, "--so-pin", so_pin)


def softhsm_util(token: SoftHSMToken, *arguments: str) -> str:
    environment = os.environ | token.env
    command = ["softhsm2-util", *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=30
    ).stdout


@pytest.mark.parametrize("pin", ["the same", "another"])
def test_a_token_wiped_by_another_process_is_refused(
    pin: str, shim: Shim, journal: MemoryTokenJournal
) -> None:
    """No PIN goes to a token that has visibly lost our keys, so none can be rejected."""
    with running(shim.config(canary_interval_s=0.1), journal=journal) as fleet:
        token = fleet.get("test")
        key = make_key(token, journal)
        sign_one(token, key)
    with running(shim.config(), journal=journal) as fleet:
        token = fleet.get("test")
        reinitialise(shim.token, shim.token.pin if pin == "the same" else "another-pin")
        [outcome] = token.sign([item(key)], PATIENCE_S)
        assert isinstance(outcome, KeydError)
        wait_for_state(token, TokenState.OFFLINE)
        assert "registered keys" in token.status().detail
        assert shim.calls("C_Login") == 2
        assert journal.pin_attempt("test") is None


def test_another_token_of_the_same_label_is_refused(
    new_softhsm: Callable[[str], SoftHSMToken], journal: MemoryTokenJournal, tmp_path: Path
) -> None:
    first = new_softhsm("test")
    by_label = config_for(first, uri="pkcs11:token=test")
    with running(by_label, journal=journal) as fleet:
        serial = fleet.get("test").status().serial
    second = create_softhsm(tmp_path / "second", "test")
    exchanged = config_for(second, uri="pkcs11:token=test")
    with running(exchanged, journal=journal) as fleet:
        status = fleet.get("test").status()
        assert status.state is TokenState.OFFLINE
        assert serial in status.detail
    # It got no PIN.
    assert len(journal.attempts) == 2
    with running(by_label, journal=journal) as fleet:
        assert fleet.get("test").status().state is TokenState.ONLINE


def test_a_missing_token_and_a_vague_address_are_explained(
    softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> None:
    with running(config_for(softhsm, uri="pkcs11:token=nobody"), journal=journal) as fleet:
        assert "NO_TOKEN_MATCHES" in fleet.get("test").status().detail
    environment = dict(softhsm.env) | {"LANG": "C"}
    twin = [sys.executable, "-m", "keyd.worker.init_token", "--label", "twin"]
    twin += ["--pin-file", str(softhsm.pin_file), "--so-pin-file", str(softhsm.so_pin_file)]
    subprocess.run(twin, env=os.environ | environment, check=True, capture_output=True, timeout=60)
    for label in ("test", "twin"):
        named = config_for(softhsm, uri=f"pkcs11:token={label}")
        with running(named) as fleet:
            assert fleet.get("test").status().label == label


_TAMPER = """
import sys
import pkcs11
from pkcs11.constants import Attribute, ObjectClass
module, label, pin, action, one, other = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=pin) as session:
    def objects(kind, key):
        wanted = {Attribute.CLASS: kind, Attribute.ID: bytes.fromhex(key)}
        return list(session.get_objects(wanted))
    both = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
    if action == "delete":
        for kind in both:
            for each in objects(kind, one):
                each.destroy()
    elif action == "double":
        for kind in both:
            for each in objects(kind, other):
                each[Attribute.ID] = bytes.fromhex(one)
    elif action == "swap":
        [mine], [theirs] = objects(both[0], one), objects(both[0], other)
        theirs[Attribute.ID] = b"aside"
        mine[Attribute.ID] = bytes.fromhex(other)
        theirs[Attribute.ID] = bytes.fromhex(one)
    elif action == "hide":
        for key in (one, other):
            for each in objects(both[1], key):
                each.copy({Attribute.PRIVATE: True})
                each.destroy()
"""


def tamper(token: SoftHSMToken, action: str, one: Key, other: Key) -> None:
    """What anybody with the PIN can do to labels, IDs and objects, from another process."""
    command = [sys.executable, "-c", _TAMPER, str(token.module), token.label, token.pin, action]
    subprocess.run(
        [*command, one.cka_id.hex(), other.cka_id.hex()],
        env=os.environ | token.env,
        check=True,
        timeout=30,
    )


@pytest.fixture(params=["while it runs", "while it is down"])
def tampering(
    request: pytest.FixtureRequest, softhsm: SoftHSMToken, journal: MemoryTokenJournal
) -> Iterator[Callable[[str], tuple[WorkerToken, Key, Key]]]:
    """Two registered keys, one token, and an attack on the first key before it signs next."""
    with running(config_for(softhsm), journal=journal) as fleet:
        token = fleet.get("test")
        keys = (make_key(token, journal) for _ in range(2))
        # The first one is the key that looks at the token sign with.
        one, other = sorted(keys, key=lambda key: key.name)
    live = request.param == "while it runs"
    stack: list[object] = []

    def attack(action: str) -> tuple[WorkerToken, Key, Key]:
        if not live:
            tamper(softhsm, action, one, other)
        context = running(config_for(softhsm), journal=journal)
        token = context.__enter__().get("test")
        stack.append(context)
        if live:
            sign_one(token, other)
            tamper(softhsm, action, one, other)
        return token, one, other

    yield attack
    for context in stack:
        context.__exit__(None, None, None)  # type: ignore[attr-defined]


Attack = Callable[[str], tuple[WorkerToken, Key, Key]]


def test_a_deleted_key_is_missing_and_its_neighbours_sign(tampering: Attack) -> None:
    """Nor does the token leave ONLINE for a key that is gone."""
    token, one, other = tampering("delete")
    since = token.status().since
    [outcome] = token.sign([item(one)], PATIENCE_S)
    assert isinstance(outcome, NotFound)
    assert token.status().missing_keys == (one.name,)
    sign_one(token, other)
    assert token.status().state is TokenState.ONLINE
    assert token.status().since == since


def test_a_token_that_hides_its_keys_before_the_login_returns(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    """After a replug SoftHSM finds nothing until C_Initialize: that is no other token."""
    tokens = shim.token.directory / "tokens"
    with running(shim.config(), journal=journal) as fleet:
        key = make_key(fleet.get("test"), journal)
    tamper(shim.token, "hide", key, key)
    with running(shim.config(probe_interval_s=60.0), journal=journal) as fleet:
        token = fleet.get("test")
        sign_one(token, key)
        tokens.rename(shim.token.directory / "away")
        # The module notices, and nobody else: a search that finds nothing is no trouble.
        with pytest.raises(NotFound):
            token.find(key.cka_id, PATIENCE_S)
        assert token.status().state is TokenState.ONLINE
        (shim.token.directory / "away").rename(tokens)
        sign_when_back(token, key)
        wait_for_state(token, TokenState.ONLINE)
        assert token.status().missing_keys == ()
        assert shim.calls("C_Login") == 3


def test_a_doubled_key_is_refused(tampering: Attack) -> None:
    """The other key's objects take the first one's CKA_ID: two matches are none."""
    token, one, other = tampering("double")
    # Until the token is looked at again, a handle found before still denotes the right key.
    token.inventory(PATIENCE_S)
    wait_until(lambda: one.name in token.status().missing_keys, "the catalogue to show it")
    assert token.status().state is TokenState.ONLINE
    assert set(token.status().missing_keys) == {one.name, other.name}
    for outcome in token.sign([item(one), item(other)], PATIENCE_S):
        assert isinstance(outcome, NotFound)


def test_a_swapped_pair_signs_nothing_wrong(tampering: Attack) -> None:
    """Each public key beside the other's private key: found out before anything is signed."""
    token, one, other = tampering("swap")
    for _ in range(4):
        for key in (one, other):
            [outcome] = token.sign([item(key)], PATIENCE_S)
            if isinstance(outcome, bytes):
                # By a handle found before the swap: it is the registered key all the same.
                verify(key.public_der, key.scheme, b"message", outcome)
            else:
                assert isinstance(outcome, SelfCheckFailed | NotFound)


def stays_online(token: WorkerToken, healthy: Key, broken: set[str]) -> None:
    """For three seconds of looking at everything all the time, and signing now and then."""
    since = token.status().since
    for _ in range(30):
        sign_one(token, healthy)
        assert set(token.status().missing_keys) == broken
        assert (token.status().state, token.status().since) == (TokenState.ONLINE, since)
        time.sleep(0.1)


OFTEN = {"probe_interval_s": 0.05, "canary_interval_s": 0.1, "inventory_interval_s": 0.1}


def test_two_swapped_keys_keep_no_other_key_from_signing(
    shim: Shim, journal: MemoryTokenJournal
) -> None:
    """Nor do they cost a login. Set right, they sign again."""
    with running(shim.config(), journal=journal) as fleet:
        keys = [make_key(fleet.get("test"), journal) for _ in range(3)]
    one, other, healthy = sorted(keys, key=lambda key: key.name)
    tamper(shim.token, "swap", one, other)
    with running(shim.config(**OFTEN), journal=journal) as fleet:
        token = fleet.get("test")
        stays_online(token, healthy, {one.name, other.name})
        for outcome in token.sign([item(one), item(other)], PATIENCE_S):
            assert isinstance(outcome, NotFound)
        tamper(shim.token, "swap", one, other)
        wait_until(lambda: token.status().missing_keys == (), "the keys to be tested again")
        for key in keys:
            sign_one(token, key)
    assert shim.calls("C_Login") == 2


def test_a_key_that_signs_again_is_used_again_under_load(
    shim: Shim, journal: MemoryTokenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is never empty when it is looked at leaves no key set aside."""
    with running(shim.config(), journal=journal) as fleet:
        keys = [make_key(fleet.get("test"), journal) for _ in range(3)]
    one, other, _ = sorted(keys, key=lambda key: key.name)
    tamper(shim.token, "swap", one, other)
    monkeypatch.setattr(RequestQueue, "idle", lambda _: False)
    with running(shim.config(**OFTEN), journal=journal) as fleet:
        token = fleet.get("test")
        assert set(token.status().missing_keys) == {one.name, other.name}
        tamper(shim.token, "swap", one, other)
        wait_until(lambda: token.status().missing_keys == (), "the keys to be tested again")
        for key in keys:
            sign_one(token, key)
