"""A plan: every step of a change in its order, who signs, and what forbids it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyd.domain.rotation.changes import ChangeSet, change_set_of
from keyd.errors import Finding, Severity

# Of thousands of names so many are told.
TOLD = 8
_TYPE = "keyd-rotation-plan-v1"
# Not TUF's canonical form, whose raw line feeds in keys no strict reader takes.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class StepKind(StrEnum):
    """What a step does."""

    GENERATE = "generate"
    SIGN = "sign"
    REHEARSE = "rehearse"
    PUBLISH = "publish"
    RETIRE = "retire"


@dataclass(frozen=True)
class Signing:
    """One role that a plan signs under a number of its own; `version` 0 is the next one."""

    number: int
    role: str
    version: int


@dataclass(frozen=True)
class Step:
    """One step.

    GENERATE: key `subject` on `token` with `scheme`. SIGN: role `subject`, as `version`, or as the
    next one if that is 0; or all `bins`, (role, version) pairs, of the prefix `subject`, and then
    every bin takes a number as a step of its own would. RETIRE: key `subject`. `text` is for
    reading.
    """

    number: int
    kind: StepKind
    text: str
    subject: str = ""
    version: int = 0
    token: str = ""
    scheme: str = ""
    bins: tuple[tuple[str, int], ...] = ()

    @property
    def signed(self) -> Iterator[Signing]:
        """The roles that it signs, in order."""
        for place, (role, version) in enumerate(self.bins):
            yield Signing(self.number + place, role, version)
        if self.kind is StepKind.SIGN and not self.bins:
            yield Signing(self.number, self.subject, self.version)

    @property
    def name(self) -> str:
        """What it is about, for reading: of bins the first and the last."""
        return f"{self.bins[0][0]} … {self.bins[-1][0]}" if self.bins else self.subject


@dataclass(frozen=True)
class SignatureNeed:
    """Whose signatures a step needs: `threshold` of `keys` (labels); `people` hold some of them.

    Of bins each needs them.
    """

    step: int
    which: str
    threshold: int
    keys: tuple[str, ...]
    people: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A change worked out. `leaves` are fingerprints; `enters` labels.

    `passing` are warnings that hold at this moment only: no part of what is approved and kept.
    """

    change: ChangeSet
    steps: tuple[Step, ...]
    needs: tuple[SignatureNeed, ...]
    leaves: tuple[str, ...]
    enters: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    passing: tuple[Finding, ...] = ()

    @property
    def told(self) -> tuple[Finding, ...]:
        """All that is to be said of it now."""
        return (*self.findings, *self.passing)

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """What forbids it."""
        return tuple(f for f in self.findings if f.severity is Severity.REFUSE)

    @property
    def numbered(self) -> Mapping[int, Step]:
        """The steps by number; where bins are signed numbers are left out."""
        return {step.number: step for step in self.steps}

    @property
    def raw(self) -> bytes:
        """The plan as JSON with sorted members: what the digest is of, and what is kept."""
        return encoded(to_json(self))

    @property
    def digest(self) -> str:
        """SHA-256 of `raw`, 64 hex digits."""
        return hashlib.sha256(self.raw).hexdigest()


def encoded(document: Mapping[str, Any]) -> bytes:
    """A plan's plain data as the bytes that its digest is of."""
    return _encode(document).encode()


def range_words(roles: Sequence[str]) -> str:
    """Roles in order for a reader, however many they are: the first, the last, and the number."""
    if len(roles) < 2:
        return "".join(roles)
    return f"{roles[0]} … {roles[-1]}, {len(roles)} roles"


def first_words(names: Sequence[str]) -> str:
    """Names that have no order of their own: the first of them, and how many more there are."""
    named = ", ".join(names[:TOLD])
    return f"{named} and {len(names) - TOLD} more" if len(names) > TOLD else named


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain data."""
    return {
        "_type": _TYPE,
        "change": plan.change.to_json(),
        "steps": [_plain_step(step) for step in plan.steps],
        "needs": [_plain(need) for need in plan.needs],
        "leaves": list(plan.leaves),
        "enters": list(plan.enters),
        "findings": [
            {
                "reason": finding.reason,
                "message": finding.message,
                "refuses": finding.severity is Severity.REFUSE,
            }
            for finding in plan.findings
        ],
    }


def _plain_step(step: Step) -> dict[str, Any]:
    """Without `bins` where there are none: as steps were written before there could be any."""
    found = _plain(step)
    bins = found.pop("bins")
    return {**found, "bins": bins} if bins else found


def _plain(value: Step | SignatureNeed) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}


def plan_of(raw: bytes) -> Plan:
    """The inverse of `Plan.raw`."""
    document: Mapping[str, Any] = json.loads(raw)
    return Plan(
        change=change_set_of(document["change"]),
        steps=tuple(map(_step, document["steps"])),
        needs=tuple(
            SignatureNeed(**{**n, "keys": tuple(n["keys"]), "people": tuple(n["people"])})
            for n in document["needs"]
        ),
        leaves=tuple(document["leaves"]),
        enters=tuple(document["enters"]),
        findings=tuple(
            Finding(
                "rotation",
                f["reason"],
                "",
                f["message"],
                Severity.REFUSE if f["refuses"] else Severity.WARN,
            )
            for f in document["findings"]
        ),
    )


def _step(document: Mapping[str, Any]) -> Step:
    bins = tuple((role, version) for role, version in document.get("bins", ()))
    return Step(**{**document, "kind": StepKind(document["kind"]), "bins": bins})


def table(plan: Plan) -> tuple[str, ...]:
    """The plan for somebody who decides about it."""
    change = plan.change
    lines = [f"{change.kind.value.replace('_', ' ').lower()} of {change.repository}"]
    if change.reason:
        lines.append(f"why: {change.reason}")
    lines.append("")
    lines += [f"{place:>3}. {step.text}" for place, step in enumerate(plan.steps, 1)]
    if plan.needs:
        lines += ["", "who signs:"]
    steps = plan.numbered
    lines += [f"     {_need(steps[need.step], need)}" for need in plan.needs]
    lines += ["", f"plan {plan.digest}"]
    return tuple(lines)


def _need(step: Step, need: SignatureNeed) -> str:
    people = f"; asked of {', '.join(need.people)}" if need.people else ""
    which = f" ({need.which})" if need.which else ""
    keys = ", ".join(need.keys) or "keys that nothing decodes"
    return f"{step.name}{which}: {need.threshold} of {keys}{people}"
