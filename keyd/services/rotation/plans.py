"""Plans that were started, as their steps need them."""

from __future__ import annotations

from functools import lru_cache

from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import Plan, plan_of
from keyd.errors import PolicyViolation
from keyd.ports import View


def plan_behind(rotation: Rotation) -> Plan:
    """The plan that a rotation was started with."""
    return _read(rotation.plan)


def still_open(view: View, name: str) -> Rotation:
    """The rotation as it is recorded now, if it is still under way.

    Raises: PolicyViolation (ROTATION_ENDED).
    """
    found = view.rotation(name)
    if found is None or not found.state.is_open:
        state = found.state.value if found else "unknown"
        raise PolicyViolation("ROTATION_ENDED", f"{name} is {state}")
    return found


def leaving(rotation: Rotation) -> tuple[str, ...]:
    """Fingerprints of the keys that leave for good."""
    return plan_behind(rotation).leaves


@lru_cache(maxsize=64)
def _read(raw: bytes) -> Plan:
    return plan_of(raw)
