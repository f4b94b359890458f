"""Clients that sign without a pause and remember what they were given."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from keyd.domain import canonical
from keyd.ledger.verification.verify import verify_ledger
from keyd_client.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    Equivocation,
    KeydClientError,
)
from tests.daemon import Installation
from tests.recording import (
    Receipt,
    Recorder,
    check_disk,
    check_entries,
    check_receipts,
    entries_of,
)

SHARED_ROLE = "timestamp"
PATIENT_S = 30.0
_GIVE_UP_S = 60.0


@dataclass
class Signing:
    """One client's work: `calls` have ended, some of them without an answer, `lost`.

    It signs for a role of its own, whose key has the role's name, and one time in four races the
    others for a version of SHARED_ROLE. What was lost is asked for again, mostly with the same
    bytes and sometimes, as by somebody who lost them, with others. `patience_s` are the deadlines
    to choose from: the SDK carries patient calls over to the next daemon.
    """

    recorder: Recorder
    role: str
    dice: random.Random
    patience_s: Sequence[float] = (PATIENT_S,)
    calls: int = 0
    lost: list[KeydClientError] = field(default_factory=list)
    busy: bool = False
    _versions: dict[str, int] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        return self.calls - len(self.lost)

    def run(self, over: threading.Event) -> None:
        """Sign until it is over. Raises what no client should meet."""
        self._versions = {self.role: 1, SHARED_ROLE: 2}
        retry: tuple[str, bytes] | None = None
        while not over.is_set():
            role, payload = self._choose(retry)
            retry = None
            self.busy = True
            try:
                self.recorder.sign(role, role, payload, timeout_s=self.dice.choice(self.patience_s))
            except Equivocation as taken:
                self._versions[role] = int(taken.details["next_version"])
            except (BackendUnavailable, DeadlineExceeded) as error:
                retry = role, payload
                self.lost.append(error)
            else:
                self._versions[role] += 1
            self.busy = False
            self.calls += 1

    def _choose(self, retry: tuple[str, bytes] | None) -> tuple[str, bytes]:
        if retry is not None and self.dice.random() < 0.75:
            return retry
        role = retry[0] if retry else self.dice.choice((*3 * [self.role], SHARED_ROLE))
        kind = SHARED_ROLE if role == SHARED_ROLE else "targets"
        writer, version = self.recorder.writer, self._versions[role]
        signed = writer.timestamp(version) if kind == SHARED_ROLE else writer.targets(version)
        # Expiries differ, so that no two payloads of a version are the same.
        fresh = writer.common(kind, version, self.dice.random() + 0.1)
        return role, canonical.encode(signed | fresh)


@dataclass
class Load:
    """Several clients at work."""

    clients: Sequence[Signing]
    over: threading.Event
    running: Sequence[Future[None]]
    _told: Counter[str] = field(default_factory=Counter)

    @property
    def receipts(self) -> list[Receipt]:
        return [receipt for client in self.clients for receipt in client.recorder.receipts]

    def new_receipts(self) -> list[Receipt]:
        """What came since the last time."""
        found = []
        for client in self.clients:
            fresh = client.recorder.receipts[self._told[client.role] :]
            self._told[client.role] += len(fresh)
            found += fresh
        return found

    @property
    def lost(self) -> list[KeydClientError]:
        return [error for client in self.clients for error in client.lost]

    def wait_for_calls(self) -> None:
        """Wait until some client waits for an answer."""
        while not any(client.busy for client in self.clients):
            time.sleep(0.0005)

    def wait_for_answers(self) -> None:
        """Wait until each client has been answered once more."""
        before = [client.answers for client in self.clients]
        until = time.monotonic() + _GIVE_UP_S
        while any(c.answers <= b for c, b in zip(self.clients, before, strict=True)):
            for future in self.running:
                if future.done():
                    future.result()
            assert time.monotonic() < until, "a client gets no answer"
            time.sleep(0.005)

    def end(self) -> None:
        """Let every client finish its call. Raises what a client met."""
        self.over.set()
        for future in self.running:
            future.result(_GIVE_UP_S)


@contextmanager
def signing(clients: Sequence[Signing]) -> Iterator[Load]:
    """Run the clients in threads of their own until `end`, or the block's end."""
    over = threading.Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        try:
            yield Load(clients, over, [pool.submit(client.run, over) for client in clients])
        finally:
            over.set()


def check_new_receipts(installation: Installation, load: Load) -> None:
    """Compare what was received since the last time with what the daemon tells of it."""
    with installation.client() as client:
        check_receipts(client, load.new_receipts())


def check_sound(installation: Installation, load: Load) -> list[dict[str, Any]]:
    """What was received is recorded, no version has two payloads, and the log verifies.

    The daemon runs; returns the log's entries.
    """
    receipts = load.receipts
    with installation.client() as client:
        entries = entries_of(client)
    check_entries(entries, receipts)
    payloads: dict[tuple[str, int], bytes] = {}
    for one in receipts:
        assert payloads.setdefault((one.role, one.version), one.payload) == one.payload
    assert check_disk(installation.ledger, installation.anchor) >= len(entries)
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws
    verified = installation.keyd("audit", "verify", "--json")
    assert verified.code == 0, verified.err
    return entries
