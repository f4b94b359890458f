"""One line of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """PASS: nothing to do. WARN: works, but look at it. FAIL: mend it. SKIP: not looked at."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and how to mend it; without secrets."""

    name: str
    verdict: Verdict
    message: str
    fix: str = ""


Look = Callable[[], Iterator[Check]]


def passed(name: str, message: str) -> Check:
    """Nothing to do."""
    return Check(name, Verdict.PASS, message)


def warned(name: str, message: str, fix: str) -> Check:
    """It works, but somebody should look at it."""
    return Check(name, Verdict.WARN, message, fix)


def failed(name: str, message: str, fix: str) -> Check:
    """It does not work, or is dangerous."""
    return Check(name, Verdict.FAIL, message, fix)


def skipped(name: str, message: str) -> Check:
    """Not looked at, and why."""
    return Check(name, Verdict.SKIP, message)
