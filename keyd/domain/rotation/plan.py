"""A plan: every step of a change in its order, who signs, and what forbids it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyd.domain.rotation.changes import ChangeSet, change_set_of
from keyd.errors import Finding, Severity

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
class Step:
    """One step.

    GENERATE: key `subject` on `token` with `scheme`. SIGN: role `subject`, probably as `version`.
    RETIRE: key `subject`. `text` is for reading.
    """

    number: int
    kind: StepKind
    text: str
    subject: str = ""
    version: int = 0
    token: str = ""
    scheme: str = ""


@dataclass(frozen=True)
class SignatureNeed:
    """Whose signatures a step needs: `threshold` of `keys` (labels); `people` hold some of them."""

    step: int
    which: str
    threshold: int
    keys: tuple[str, ...]
    people: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A change worked out. `leaves` are fingerprints; `enters` labels."""

    change: ChangeSet
    steps: tuple[Step, ...]
    needs: tuple[SignatureNeed, ...]
    leaves: tuple[str, ...]
    enters: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """What forbids it."""
        return tuple(f for f in self.findings if f.severity is Severity.REFUSE)

    @property
    def raw(self) -> bytes:
        """The plan as JSON with sorted members: what the digest is of, and what is kept."""
        return _encode(to_json(self)).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `raw`, 64 hex digits."""
        return hashlib.sha256(self.raw).hexdigest()


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain data."""
    return {
        "_type": _TYPE,
        "change": plan.change.to_json(),
        "steps": [_plain(step) for step in plan.steps],
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


def _plain(value: Step | SignatureNeed) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}


def plan_of(raw: bytes) -> Plan:
    """The inverse of `Plan.raw`."""
    document: Mapping[str, Any] = json.loads(raw)
    return Plan(
        change=change_set_of(document["change"]),
        steps=tuple(Step(**{**s, "kind": StepKind(s["kind"])}) for s in document["steps"]),
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


def table(plan: Plan) -> tuple[str, ...]:
    """The plan for somebody who decides about it."""
    change = plan.change
    lines = [f"{change.kind.value.replace('_', ' ').lower()} of {change.repository}"]
    if change.reason:
        lines.append(f"why: {change.reason}")
    lines.append("")
    lines += [f"{step.number + 1:>3}. {step.text}" for step in plan.steps]
    if plan.needs:
        lines += ["", "who signs:"]
    lines += [f"     {_need(plan, need)}" for need in plan.needs]
    lines += ["", f"plan {plan.digest}"]
    return tuple(lines)


def _need(plan: Plan, need: SignatureNeed) -> str:
    step = plan.steps[need.step]
    people = f"; asked of {', '.join(need.people)}" if need.people else ""
    which = f" ({need.which})" if need.which else ""
    keys = ", ".join(need.keys) or "keys that nothing decodes"
    return f"{step.subject}{which}: {need.threshold} of {keys}{people}"
