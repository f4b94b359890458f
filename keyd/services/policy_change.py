"""Whether a policy file may take the place of the one in force."""

from __future__ import annotations

from collections.abc import Callable

from keyd.domain.loosening import policy_loosened
from keyd.domain.policy import Policy
from keyd.errors import ApprovalRequired
from keyd.ports import Transaction, View
from keyd.services.effects import ACCEPTED_POLICY
from keyd.services.officers import check_lone_rules, check_reserve

IN_FORCE = "policy_digest"
TEXT = "policy_text"
_SHOWN = 5


def check_policy(view: View, policy: Policy, parse: Callable[[bytes], Policy]) -> None:
    """Refuse what officers must agree to first, and rules that mislead or cannot be satisfied.

    `parse` reads the text of the policy that held last. Nothing is refused before there are
    officers, nor the policy that holds already. Raises: ApprovalRequired (POLICY_LOOSENED),
    PolicyViolation (QUORUM_UNREACHABLE, QUORUM_WITHOUT_RESERVE, QUORUM_WITHOUT_EFFECT).
    """
    threshold = view.base_threshold()
    if not threshold or view.setting(IN_FORCE) == policy.revision:
        return
    check_reserve(policy, view.officers(), threshold)
    check_lone_rules(policy, view)
    if view.setting(ACCEPTED_POLICY) == policy.revision:
        return
    # Of what nobody knows any more, nothing was permitted.
    lines = policy_loosened(parse((view.setting(TEXT) or "").encode()), policy)
    if lines:
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ApprovalRequired(
            "POLICY_LOOSENED",
            f"the policy file permits more than before: {'; '.join(lines[:_SHOWN])}{more}; the old "
            f"policy stays in force until officers accept revision {policy.revision}, then load "
            "it again",
            details={"revision": policy.revision},
        )


def keep_policy(tx: Transaction, policy: Policy, text: str) -> None:
    """Remember the policy that holds from now on; an acceptance is used up."""
    tx.put_setting(IN_FORCE, policy.revision)
    tx.put_setting(TEXT, text)
    tx.put_setting(ACCEPTED_POLICY, "")
