"""A running daemon whose token, module or worker fails: what its clients see.

reliability A4, C3, D2. The worker reaches its token through the shim, which counts and misbehaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.ledger.verification.verify import verify_ledger
from keyd_client import Client
from keyd_client.errors import BackendUnavailable, DeadlineExceeded, KeydClientError
from keyd_protos.v1.tokens_pb2 import Token, TokenState
from tests.daemon import OPAQUE_KEY, TOKEN, Installation
from tests.faults.callers import CALLS_PER_S, Callers, Ended
from tests.faults.shim import CODES, Orders, put_shim
from tests.fleets import wait_until, worker_pids
from tests.recording import Recorder, check_entries, entries_of
from tests.running import Daemon
from tests.tally import Promise, Tally, tallied

# Of a busy machine; goals are 2 s until clients are told and 3 s until all is well (promise 5).
TOLD_S, WELL_S = 10.0, 30.0


@dataclass
class Site:
    """A daemon whose token is behind the shim."""

    installation: Installation
    orders: Orders
    daemon: Daemon
    admin: Client

    def worker(self) -> int:
        [pid] = worker_pids(self.daemon.running.pid)
        return pid

    def token(self) -> Token:
        [token] = self.admin.tokens.list()
        return token

    def state(self) -> str:
        return TokenState.Name(self.token().state).removeprefix("TOKEN_STATE_")

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.state() == state, f"the token to be {state}")


@contextmanager
def site_on(
    installation: Installation, shim_module: Path, sign_timeout_s: float = 2.0
) -> Iterator[Site]:
    orders = put_shim(installation, shim_module, sign_timeout_s=sign_timeout_s)
    with installation.serve() as daemon, installation.client() as admin:
        daemon.wait_for("daemon_ready")
        yield Site(installation, orders, daemon, admin)
        assert daemon.stop() == 0


def test_a_lost_worker_at_fifty_calls_a_second(
    installation: Installation, shim_module: Path
) -> None:
    """reliability A4: clients are told at once, all is well again soon, and one PIN is spent."""
    with site_on(installation, shim_module) as site, Callers(installation) as callers:
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP):
            wait_until(lambda: bool(callers.since(time.monotonic() - 0.2, "OK")), "calls")
            with tallied(Promise.TOKENS_RECOVER, f"{number.name} at 50 calls/s") as tally:
                _lose_worker(site, callers, number, tally)


def _lose_worker(site: Site, callers: Callers, number: signal.Signals, tally: Tally) -> None:
    logins, starts = site.orders.calls("C_Login"), site.orders.calls("C_Initialize")
    lost = time.monotonic()
    os.kill(site.worker(), number)
    tally.injected()

    def after() -> list[Ended]:
        return [one for one in callers.since(lost, "OK") if one.began > lost]

    wait_until(lambda: bool(after()), f"a signature after {number.name}")
    well_s = min(one.ended for one in after()) - lost
    # Those that waited longest were asked of the lost worker; their answers are in by now or soon.
    wait_until(lambda: len(after()) > CALLS_PER_S, "many signatures")
    ended = [one for one in callers.ended if one.ended > lost]
    told_s = max(one.ended - max(one.began, lost) for one in ended)
    codes = {one.code for one in ended}
    spent = site.orders.calls("C_Login") - logins
    print(f"{number.name}: slowest answer {told_s:.2f} s, signed after {well_s:.2f} s, {codes}")
    assert codes <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert told_s < TOLD_S
    assert well_s < WELL_S
    assert 1 <= spent <= site.orders.calls("C_Initialize") - starts
    tally.recovered(well_s)


def test_a_wrong_signature_is_caught_and_its_token_used_no_more(
    installation: Installation, shim_module: Path
) -> None:
    """reliability D2: nothing is released or recorded; the same bytes are signed after release."""
    with site_on(installation, shim_module) as site:
        release = installation.recorder()
        for version, order in enumerate(("flip", "zero", "foreign"), start=2):
            fault = f"a signature of the token is wrong ({order})"
            with tallied(Promise.RECORDED, fault) as tally:
                _sign_wrongly(site, release, version, order, tally)
        check_entries(entries_of(site.admin), release.receipts)


def _sign_wrongly(site: Site, release: Recorder, version: int, order: str, tally: Tally) -> None:
    payload = canonical.encode(release.writer.targets(version))
    site.orders.once("C_Sign", order)
    with pytest.raises(KeydClientError) as refused:
        release.sign("team-a", "team-a", payload)
    assert site.orders.obeyed("C_Sign")
    tally.injected()
    # The token's own signed look at itself may have come first.
    assert refused.value.reason in ("SIGNATURE_SELF_CHECK_FAILED", "TOKEN_QUARANTINED")
    assert not site.admin.get_signature("team-a", version).signatures
    assert site.state() == "QUARANTINED"
    wait_until(lambda: not worker_pids(site.daemon.running.pid), "the worker to end")
    with pytest.raises(KeydClientError) as refused:
        release.sign("team-a", "team-a", payload)
    assert refused.value.reason == "TOKEN_QUARANTINED"
    released = time.monotonic()
    site.admin.tokens.release(TOKEN, "looked at")
    site.wait_for("ONLINE")
    tally.recovered(time.monotonic() - released)
    assert not release.sign("team-a", "team-a", payload).replayed


def test_a_signature_of_a_wrong_length_is_not_one(
    installation: Installation, shim_module: Path
) -> None:
    """reliability D2. Lengths are the module's failure, not a lie: tried again, then OFFLINE."""
    with (
        tallied(Promise.RECORDED, "a signature of the token has a wrong length") as tally,
        site_on(installation, shim_module) as site,
    ):
        release = installation.recorder()
        for version, order in enumerate(("short", "long"), start=2):
            payload = canonical.encode(release.writer.targets(version))
            site.orders.always("C_Sign", order)
            with pytest.raises(KeydClientError) as refused:
                release.sign("team-a", "team-a", payload, timeout_s=3.0)
            tally.injected()
            assert isinstance(refused.value, BackendUnavailable | DeadlineExceeded)
            assert not site.admin.get_signature("team-a", version).signatures
            site.orders.behave()
            behaves = time.monotonic()
            release.sign("team-a", "team-a", payload)
            tally.recovered(time.monotonic() - behaves)
        check_entries(entries_of(site.admin), release.receipts)


def test_a_late_signature_is_kept_for_the_next_request(
    installation: Installation, shim_module: Path
) -> None:
    """reliability C3: the caller has gone, the token signs all the same, and once is enough."""
    with (
        tallied(Promise.REPEATABLE, "the token signs after the caller's deadline") as tally,
        site_on(installation, shim_module, 20.0) as site,
    ):
        release = installation.recorder()
        payload = canonical.encode(release.writer.targets(2))
        site.orders.once("C_Sign", "delay 2000")
        with pytest.raises(DeadlineExceeded):
            release.sign("team-a", "team-a", payload, timeout_s=0.5)
        tally.injected()
        recorded = site.daemon.wait_for("late_signature_recorded")
        signed = site.orders.calls("C_Sign")
        [kept] = site.admin.get_signature("team-a", 2).signatures
        answer = release.sign("team-a", "team-a", payload)
        assert (answer.replayed, answer.signature) == (True, kept.signature)
        # But for the token's own looks at itself, which are rare.
        assert site.orders.calls("C_Sign") <= signed + 2
        entries = entries_of(site.admin)
        check_entries(entries, release.receipts)
        ends = [one for one in entries if one["index"] >= recorded["log_index"] - 1]
        assert [one["event"] for one in ends[:2]] == ["signature_failed", "signature_completed"]
        assert ends[0]["intent"] == ends[1]["intent"]
        verified = installation.keyd("audit", "verify", "--json")
        assert verified.code == 0, verified.err
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws


def test_a_late_opaque_signature_is_kept_for_the_next_request(
    installation: Installation, shim_module: Path
) -> None:
    with (
        tallied(Promise.REPEATABLE, "the token signs opaque bytes after the deadline") as tally,
        site_on(installation, shim_module, 20.0) as site,
    ):
        site.orders.once("C_Sign", "delay 2000")
        with pytest.raises(DeadlineExceeded):
            site.admin.sign_opaque(OPAQUE_KEY, b"a blob", timeout_s=0.5)
        tally.injected()
        recorded = site.daemon.wait_for("late_signature_recorded")
        signed = site.orders.calls("C_Sign")
        assert site.admin.sign_opaque(OPAQUE_KEY, b"a blob").replayed
        # But for the token's own looks at itself, which are rare.
        assert site.orders.calls("C_Sign") <= signed + 2
        ends = entries_of(site.admin)[recorded["log_index"] - 1 :][:2]
        assert [one["event"] for one in ends] == ["opaque_failed", "opaque_completed"]
        assert ends[0]["intent"] == ends[1]["intent"]
        verified = installation.keyd("audit", "verify", "--json")
        assert verified.code == 0, verified.err
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws


def test_a_late_signature_that_is_wrong_is_not_kept(
    installation: Installation, shim_module: Path
) -> None:
    """It is verified like any other, and its token used no more."""
    with (
        tallied(Promise.RECORDED, "a late signature is wrong") as tally,
        site_on(installation, shim_module, 20.0) as site,
    ):
        release = installation.recorder()
        payload = canonical.encode(release.writer.targets(2))
        site.orders.once("C_SignInit", "delay 2000")
        site.orders.once("C_Sign", "flip")
        with pytest.raises(DeadlineExceeded):
            release.sign("team-a", "team-a", payload, timeout_s=0.5)
        tally.injected()
        refused = site.daemon.wait_for("late_signature_refused")
        assert refused["reason"] == "SIGNATURE_SELF_CHECK_FAILED"
        assert site.state() == "QUARANTINED"
        assert not site.admin.get_signature("team-a", 2).signatures


def test_a_pin_changed_by_others_costs_one_try(
    installation: Installation, shim_module: Path
) -> None:
    """The open login goes on; the next worker's is rejected once, and no restart repeats it."""
    fault = "the PIN was changed by another process"
    with tallied(Promise.PIN_SPARED, fault) as tally:
        with site_on(installation, shim_module) as site:
            release = installation.recorder()
            change_pin(installation, "another-pin")
            tally.injected()
            release.sign("team-a", "team-a", release.writer.targets(2))
            os.kill(site.worker(), signal.SIGKILL)
            site.wait_for("PIN_REQUIRED")
            assert site.orders.calls("C_Login") == 2
            payload = canonical.encode(release.writer.targets(3))
            with pytest.raises(KeydClientError) as refused:
                release.sign("team-a", "team-a", payload)
            assert refused.value.reason == "PIN_REQUIRED"
        with installation.serve() as daemon, installation.client() as admin:
            daemon.wait_for("daemon_ready")
            assert site.orders.calls("C_Login") == 2
            typed = time.monotonic()
            admin.tokens.unlock(TOKEN, b"another-pin")
            release.sign("team-a", "team-a", payload)
            tally.recovered(time.monotonic() - typed)
            assert site.orders.calls("C_Login") == 3
            assert daemon.stop() == 0


def test_a_locked_pin_is_said_and_left_alone(installation: Installation, shim_module: Path) -> None:
    with (
        tallied(Promise.PIN_SPARED, "the token has locked its PIN") as tally,
        site_on(installation, shim_module) as site,
    ):
        release = installation.recorder()
        site.orders.always("C_Login", f"rv {CODES['PIN_LOCKED']:x} early")
        os.kill(site.worker(), signal.SIGKILL)
        tally.injected()
        site.wait_for("PIN_LOCKED")
        payload = canonical.encode(release.writer.targets(2))
        with pytest.raises(KeydClientError) as refused:
            release.sign("team-a", "team-a", payload)
        assert refused.value.reason == "PIN_LOCKED"
        assert "security officer" in site.token().detail
        assert site.orders.calls("C_Login") == 2
        site.orders.behave()
        site.admin.tokens.unlock(TOKEN, installation.pin.encode())
        release.sign("team-a", "team-a", payload)


_CHANGE_PIN = """
import sys, pkcs11
module, label, old, new = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=old) as session:
    session.set_pin(old, new)
"""


def change_pin(installation: Installation, new: str) -> None:
    """What another program with the PIN may do at any time."""
    module = json.loads((installation.root / "token.json").read_text())["module"]
    subprocess.run(
        [sys.executable, "-c", _CHANGE_PIN, module, "test", installation.pin, new],
        env=os.environ | {"SOFTHSM2_CONF": str(installation.softhsm / "softhsm2.conf")},
        check=True,
        timeout=30,
    )
