"""Named places where a test may have the process killed as if the power had gone.

`KEYD_FAILPOINT=name` (or `name:count` for the count-th passage) in the environment, read once at
import, makes `failpoint(name)` send SIGKILL to this process. With `@/path` at the end, passages
count only while that file exists: a daemon passes many places while it starts. Without the variable
nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

VARIABLE = "KEYD_FAILPOINT"


class Failpoint(StrEnum):
    """Every place there is; the name tells what has just happened."""

    LEDGER_CREATED_UNNAMED = "ledger.created_unnamed"
    LEDGER_MIGRATION_OPEN = "ledger.migration_open"
    LEDGER_GROUP_WRITTEN = "ledger.group_written"
    LEDGER_GROUP_COMMITTED = "ledger.group_committed"
    LEDGER_GROUP_ANCHORED = "ledger.group_anchored"
    LEDGER_ANCHOR_REWRITTEN = "ledger.anchor_rewritten"
    LEDGER_REPAIR_COMMITTED = "ledger.repair_committed"
    SIGN_AFTER_RESERVE = "sign.after_reserve"
    SIGN_AFTER_TOKEN = "sign.after_token"
    SIGN_AFTER_VERIFY = "sign.after_verify"
    SIGN_BEFORE_ANSWER = "sign.before_answer"
    KEY_AFTER_INTENT = "key.after_intent"
    KEY_AFTER_GENERATE = "key.after_generate"
    KEY_BEFORE_ANSWER = "key.before_answer"
    KEY_DELETION_ANNOUNCED = "key.deletion_announced"
    KEY_OBJECTS_DELETED = "key.objects_deleted"
    KEY_DELETION_RECORDED = "key.deletion_recorded"
    LEDGER_BACKUP_COPIED = "ledger.backup_copied"
    ROTATION_STARTED = "rotation.started"
    ROTATION_RESERVED = "rotation.reserved"
    ROTATION_SIGNED = "rotation.signed"
    ROTATION_STEP_DONE = "rotation.step_done"
    ROTATION_REHEARSED = "rotation.rehearsed"
    ROTATION_PUBLISHED = "rotation.published"
    ROTATION_RETIRED = "rotation.retired"


def _nothing(point: Failpoint) -> None:
    """Failpoints are off."""


def _killer(setting: str) -> Callable[[Failpoint], None]:
    """What kills the process at the place and passage that `setting` names.

    Raises: ValueError for an unknown name or count, so that no test injects nothing by a typo.
    """
    place, _, armed_by = setting.partition("@")
    name, _, count = place.partition(":")
    wanted = Failpoint(name)
    left = int(count or 1)
    if left < 1:
        raise ValueError(f"{VARIABLE}: the count must be 1 or more")

    def kill(point: Failpoint) -> None:
        nonlocal left
        if point is wanted and (not armed_by or Path(armed_by).exists()):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return kill


_setting = os.environ.get(VARIABLE)
failpoint: Callable[[Failpoint], None] = _killer(_setting) if _setting else _nothing
