"""How a rotation's plan is shown, wherever it comes from: built here from its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from keyd.cli.output import plain, say
from keyd.cli.remote import dicts
from keyd.domain.rotation.found import warned
from keyd.domain.rotation.plan import Plan, table
from keyd.domain.rotation.reading import finding_line, read_plan
from keyd.errors import Finding, InvalidRequest, Severity
from keyd.rpc.convert import findings_out
from keyd_client.messages import RotationPlan


def plan_of_daemon(found: RotationPlan) -> Plan:
    """The plan behind the digest that starts it, whatever else the daemon says of it.

    Raises: InvalidRequest (DIGEST_MISMATCH, PLAN_UNREADABLE).
    """
    raw = found.json.encode()
    if hashlib.sha256(raw).digest() != found.digest:
        raise InvalidRequest(
            "DIGEST_MISMATCH", "the plan has another digest than the daemon says: start nothing"
        )
    return replace(read_plan(raw), passing=tuple(_passing(found)))


def _passing(found: RotationPlan) -> Iterator[Finding]:
    """What the bytes cannot say, for it changes while people decide: at most a warning."""
    for told in found.findings:
        if told.reason == "ROTATION_VERSION_PENDING" and not told.refuses:
            yield warned(told.reason, told.message)


def plan_data(plan: Plan, findings: Sequence[Finding] = ()) -> dict[str, Any]:
    """The plan as JSON, with findings of its own or more."""
    return {
        "digest": plan.digest,
        "plan": json.loads(plan.raw),
        "findings": dicts(findings_out(findings or plan.told)),
    }


def plan_table(plan: Plan) -> list[str]:
    """The plan for a terminal."""
    return [plain(line) for line in table(plan)]


def say_findings(findings: Sequence[Finding]) -> None:
    """What stands against it, and what should be known; the same thing of several places once."""
    for line in dict.fromkeys(map(finding_line, findings)):
        say(plain(line))


def is_refused(findings: Sequence[Finding]) -> bool:
    """Whether it cannot be started."""
    return any(finding.severity is Severity.REFUSE for finding in findings)
