"""The answer of the rules."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain.difference import Change
from keyd.domain.trust import KeySet
from keyd.errors import Finding, Severity


@dataclass(frozen=True)
class Judgement:
    """What the rules say about one payload for one role at one moment.

    `findings` are ordered: what nothing can lift (`malformed`), other refusals, warnings, each in
    the order of the rules; the first is the primary reason. At most 50 refusals and 50 warnings are
    kept: a hostile payload must not choose the size of its answer.

    `required` are the key sets that must all reach their threshold before the payload is accepted.
    `change` is what a root changes about the trusted one (root 1: all that it
    says); None for the other types.
    """

    findings: tuple[Finding, ...]
    required: tuple[KeySet, ...] = ()
    change: Change | None = None

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """The findings that forbid signing."""
        return tuple(found for found in self.findings if found.severity is Severity.REFUSE)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that only inform."""
        return tuple(found for found in self.findings if found.severity is Severity.WARN)
