"""Settling announced token calls that nobody will end any more.

A crash leaves them: they are closed at start, before anything is served. So does a ledger or an
anchor that could not be written when a call began or ended: they are closed while the daemon runs,
when no call can be that old.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from keyd.domain.audit import Entry, Event
from keyd.domain.records import Intent, IntentKind, IntentState
from keyd.ports import Clock, Ledger, Transaction

PRINCIPAL = "keyd"
# Above every deadline that callers are granted, with what a ledger may keep them waiting.
_LONGEST_CALL_S = {
    IntentKind.SIGN: 45.0,
    IntentKind.SIGN_OPAQUE: 45.0,
    IntentKind.GENERATE: 180.0,
    IntentKind.DESTROY: 180.0,
}


def close_open_intents(ledger: Ledger, clock: Clock) -> int:
    """Close every announced token call without a recorded end; return how many there were.

    A signature may exist that was never recorded, so its outcome is UNKNOWN; the reservation
    stands, and the same bytes asked for again are signed under it. A key whose generation was
    announced but not recorded was never registered: ABANDONED, and a stray on its token if the
    token got that far. How much of a key pair was deleted is UNKNOWN: executing the proposal again
    deletes the rest.
    """
    waiting = ledger.read(lambda view: view.open_intents())
    for intent in waiting:
        ledger.transact(partial(_close, clock, intent))
    return len(waiting)


class Unended:
    """Notices token calls that stay open for longer than any call lasts."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._seen: dict[int, float] = {}

    def close(self) -> int:
        """Close those seen for long enough, now or by an earlier look; return how many.

        Should a call end after all, its own record stands: it comes later. Raises: KeydError.
        """
        waiting = self._ledger.read(lambda view: view.open_intents())
        now = self._clock.monotonic()
        self._seen = {intent.leaf: self._seen.get(intent.leaf, now) for intent in waiting}
        old = [i for i in waiting if now - self._seen[i.leaf] >= _LONGEST_CALL_S[i.kind]]
        for intent in old:
            self._ledger.transact(partial(_close_if_open, self._clock, intent))
        return len(old)


def _close_if_open(clock: Clock, intent: Intent, tx: Transaction) -> None:
    if intent in tx.open_intents():
        _close(clock, intent, tx)


def _close(clock: Clock, intent: Intent, tx: Transaction) -> None:
    generated = intent.kind is IntentKind.GENERATE
    state = IntentState.ABANDONED if generated else IntentState.UNKNOWN
    tx.put_intent(replace(intent, state=state))
    tx.append(
        Entry(
            event=Event.INTENT_CLOSED,
            at=clock.now(),
            principal=PRINCIPAL,
            fields={
                "intent": intent.leaf,
                "kind": intent.kind.value,
                "key": intent.key,
                "subject": intent.subject,
                "outcome": state.value,
            },
        )
    )
