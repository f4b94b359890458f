"""The policy in force: replaced as a whole, and never without a record of it."""

from __future__ import annotations

from pathlib import Path

from keyd.domain.audit import Entry, Event
from keyd.domain.policy import Policy
from keyd.ports import Clock, Ledger, Transaction

_SETTING = "policy_digest"
_PRINCIPAL = "keyd"


class PolicyInForce:
    """What services ask. Readers see the old policy or the new one, nothing between."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def current(self) -> Policy:
        """The policy that holds now."""
        return self._policy

    def replace(self, policy: Policy) -> None:
        """Let another policy hold from now on."""
        self._policy = policy


def record_policy(ledger: Ledger, clock: Clock, policy: Policy, path: Path) -> bool:
    """Log that a policy is about to hold; returns False if it is the one that holds already."""

    def work(transaction: Transaction) -> bool:
        before = transaction.setting(_SETTING)
        if before == policy.revision:
            return False
        transaction.put_setting(_SETTING, policy.revision)
        transaction.append(
            Entry(
                event=Event.POLICY_LOADED,
                at=clock.now(),
                principal=_PRINCIPAL,
                fields={
                    "file": str(path),
                    "digest": policy.revision,
                    "digest_before": before or "",
                    "grants": len(policy.grants),
                },
            )
        )
        return True

    return ledger.transact(work)
