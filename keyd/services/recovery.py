"""At start, before anything is served: settle what a crash left open."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from keyd.domain.audit import Entry, Event
from keyd.domain.records import Intent, IntentKind, IntentState
from keyd.ports import Clock, Ledger, Transaction

PRINCIPAL = "keyd"


def close_open_intents(ledger: Ledger, clock: Clock) -> int:
    """Close every announced token call without a recorded end; return how many there were.

    A signature may exist that was never recorded, so its outcome is UNKNOWN; the reservation
    stands, and the same bytes asked for again are signed under it. A key whose generation was
    announced but not recorded was never registered: ABANDONED, and a stray on its token if the
    token got that far.
    """
    waiting = ledger.read(lambda view: view.open_intents())
    for intent in waiting:
        ledger.transact(partial(_close, clock, intent))
    return len(waiting)


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
