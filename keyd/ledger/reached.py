"""What the ledger has reached: what its anchor has to know."""

from __future__ import annotations

import sqlite3

from keyd.domain import merkle
from keyd.ledger.anchor import AnchorState
from keyd.ledger.log import StoredLog
from keyd.ledger.marks import Mark, Marks
from keyd.ledger.view import SqliteView

_MARKS = """
SELECT role.repository, role.name, role.epoch, role.high_water,
    coalesce(held.digest, known.digest, '')
FROM roles AS role
LEFT JOIN reservations AS held
    ON held.repository = role.repository AND held.role = role.name AND held.epoch = role.epoch
    AND held.version = role.high_water AND held.state <> 'VOIDED'
LEFT JOIN versions AS known
    ON known.repository = role.repository AND known.role = role.name
    AND known.epoch = role.epoch AND known.version = role.high_water
WHERE role.high_water > 0
UNION ALL
SELECT repository, role, epoch, last, digest FROM lost_versions
"""


def current_state(connection: sqlite3.Connection) -> AnchorState:
    """What an anchor of the ledger as it is now has to know."""
    log = StoredLog(connection)
    view = SqliteView(connection, log)
    size = log.size()
    marks = Marks()
    for row in connection.execute(_MARKS).fetchall():
        marks.rise(Mark(*row))
    checkpoint = view.checkpoint()
    return AnchorState(
        ledger_id=view.identity().ledger_id,
        size=size,
        root=merkle.root_at(log.subtree, size),
        marks=marks,
        checkpoint="" if checkpoint is None else checkpoint.note,
    )
