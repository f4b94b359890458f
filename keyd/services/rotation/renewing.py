"""What a rotation signs beyond its plan: what is published and has expired while it waited.

Whoever publishes cannot renew it: what lists it is signed by keys that have left, or by new ones
that clients do not know yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import Step, StepKind
from keyd.domain.rules.expiry import trusted_expiry
from keyd.ports import View
from keyd.services.evidence import mark, role_or_new, trusted
from keyd.services.rotation.plans import plan_behind

_RENEWED = ("targets", "snapshot")


def steps_now(view: View, rotation: Rotation, now: datetime) -> tuple[Step, ...]:
    """The steps of the plan, and before its snapshot or timestamp those that renew something.

    They have the numbers after the plan's; one that was bound stays.
    """
    steps = plan_behind(rotation).steps
    place = next((place for place, step in enumerate(steps) if _lists_files(step)), None)
    if place is None:
        return steps
    return (*steps[:place], *_renewals(view, rotation, now, steps), *steps[place:])


def renewed(steps: tuple[Step, ...], rotation: Rotation) -> tuple[Step, ...]:
    """Those of `steps_now` that are not the plan's."""
    planned = plan_behind(rotation).numbered
    return tuple(step for step in steps if step.number not in planned)


def _renewals(
    view: View, rotation: Rotation, now: datetime, steps: tuple[Step, ...]
) -> Iterator[Step]:
    signed = {signing.role for step in steps for signing in step.signed}
    free = steps[-1].number + max(1, len(steps[-1].bins))
    listed = False
    for number, role in enumerate(_RENEWED, free):
        begun = view.rotation_file(rotation.name, number) is not None
        due = rotation.state.is_open and (listed or _has_expired(view, rotation, role, now))
        if role not in signed and (begun or due):
            listed = True
            recorded = role_or_new(view, rotation.repository, role)
            text = f"sign {role} anew: what is published of it has expired"
            yield Step(number, StepKind.SIGN, text, role, mark(view, recorded) + 1)


def _lists_files(step: Step) -> bool:
    return any(signing.role in ("snapshot", "timestamp") for signing in step.signed)


def _has_expired(view: View, rotation: Rotation, role: str, now: datetime) -> bool:
    published = trusted(view, rotation.repository, role)
    expires = trusted_expiry(published) if published is not None else None
    return expires is not None and expires <= now
