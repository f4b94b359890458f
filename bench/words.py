"""Figures in words, alike wherever they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.figures import Figures
from bench.goals import Goal
from bench.timing import Timing


def share_of(figures: Figures, name: str, floor: str) -> str:
    """A rate as a part of another; empty if one of them was not measured."""
    share = figures.over_rounds([name, floor], lambda at: at(name).rate / at(floor).rate)
    return "" if share is None else f"{share:.2f}"


def as_rate(timing: Timing) -> str:
    """Things per second."""
    return f"{timing.rate:,.0f}/s"


def as_us(microseconds: float | None) -> str:
    """A bare number, for a column of microseconds."""
    return "" if microseconds is None else f"{microseconds:,.0f}"


def as_ms(microseconds: float) -> str:
    """In milliseconds."""
    return f"{microseconds / 1e3:,.2f} ms"


def cores_busy(timing: Timing) -> str:
    """How many cores' time was used: about 1 with many callers, and one interpreter decides."""
    return f"{timing.rate * timing.cpu_all_us / 1e6:.2f}"


def goal_cells(goal: Goal) -> tuple[str, str, str, str]:
    """Name, measured, wanted, verdict."""
    sign = "<=" if goal.at_most else ">="
    aim = f" (aim {goal.aim:g})" if goal.aim is not None else ""
    measured = "-" if goal.measured is None else f"{goal.measured:.2f}"
    wanted = f"{sign} {goal.limit:g}{aim} {goal.unit}".rstrip()
    return goal.name, measured, wanted, goal.verdict


def machine_line(machine: Mapping[str, Any]) -> str:
    """Where it was measured."""
    packages = machine["packages"]
    return (
        f"{machine['cores']} cores ({machine['processor']}), Python {machine['python']}, "
        f"grpcio {packages['grpcio']}, python-pkcs11 {packages['python-pkcs11']}"
    )
