"""Plans that were started, as their steps need them."""

from __future__ import annotations

from functools import lru_cache

from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import Plan, plan_of


def plan_behind(rotation: Rotation) -> Plan:
    """The plan that a rotation was started with."""
    return _read(rotation.plan)


def leaving(rotation: Rotation) -> tuple[str, ...]:
    """Fingerprints of the keys that leave for good."""
    return plan_behind(rotation).leaves


@lru_cache(maxsize=64)
def _read(raw: bytes) -> Plan:
    return plan_of(raw)
