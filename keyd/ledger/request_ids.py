"""How long request ids are remembered.

Each call that names an id leaves a row; without an end they would outgrow what they are good for.
So a transaction that adds some removes a few that are older than REMEMBERED, by the time of the
newest: more than it adds, so that a backlog shrinks, and boundedly many, so that no caller waits
for it. Nobody's ids are removed while nobody asks.

A forgotten id is a new one. What must never happen twice does not rest on it: the same payload
still gets the recorded signature and another payload of the same version is still refused,
because reservations and signatures are for ever. What is lost is a convenience: other content under
the old id is judged like any new request instead of being REQUEST_ID_REUSED, and a repeated
CreateKey gets KEY_EXISTS instead of the key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta

from keyd.ledger.codec import time_text

# A client that got no answer asks again within minutes, a pipeline that is started anew in days.
REMEMBERED = timedelta(days=7)
_FORGOTTEN_FOR_EACH = 4
_FORGET = """
DELETE FROM requests WHERE (principal, request_id) IN
    (SELECT principal, request_id FROM requests WHERE at < ? ORDER BY at LIMIT ?)
"""


def forget_old(connection: sqlite3.Connection, added: Sequence[datetime]) -> None:
    """Remove some old ids, in the transaction that adds ids of these times."""
    if added:
        oldest = time_text(max(added) - REMEMBERED)
        connection.execute(_FORGET, (oldest, _FORGOTTEN_FOR_EACH * len(added)))
