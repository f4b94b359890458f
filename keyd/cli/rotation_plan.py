"""How a rotation's plan is shown, wherever it comes from."""

from __future__ import annotations

import json
from typing import Any

from keyd.cli.output import say
from keyd.cli.remote import dicts
from keyd_client.messages import RotationPlan


def plan_data(found: RotationPlan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "digest": found.digest.hex(),
        "plan": json.loads(found.json),
        "findings": dicts(found.findings),
    }


def say_findings(found: RotationPlan) -> None:
    """What stands against it, and what should be known; the same thing of several places once."""
    lines = (
        f"{'refused' if one.refuses else 'warning'}: {one.reason}: {one.message}"
        for one in found.findings
    )
    for line in dict.fromkeys(lines):
        say(line)


def is_refused(found: RotationPlan) -> bool:
    """Whether it cannot be started."""
    return any(finding.refuses for finding in found.findings)
