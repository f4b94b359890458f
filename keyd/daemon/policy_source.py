"""The policy in force: replaced as a whole, and never without a record of it."""

from __future__ import annotations

from pathlib import Path

import structlog

from keyd.config.files import read_trusted
from keyd.config.policy_file import parse_policy
from keyd.domain.audit import Entry, Event
from keyd.domain.policy import Policy
from keyd.errors import KeydError
from keyd.ports import Clock, Ledger, Transaction
from keyd.services.policy_change import IN_FORCE, TEXT, check_policy, keep_policy

_PRINCIPAL = "keyd"
_log = structlog.get_logger(__name__)


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


def policy_to_start_with(path: Path, ledger: Ledger, clock: Clock) -> Policy:
    """The policy of the file; if officers have to accept it first, the one that held last.

    Raises: ConfigurationError; ApprovalRequired, PolicyViolation if none held yet.
    """
    data = read_trusted(path)
    policy = parse_policy(data, path)
    if ledger.refusal():
        return policy
    try:
        take_policy(ledger, clock, policy, data, path)
    except KeydError as refused:
        text = ledger.read(lambda view: view.setting(TEXT))
        if text is None or not ledger.read(lambda view: view.base_threshold()):
            raise
        policy = parse_policy(text.encode(), path)
        _log.critical(
            "policy_refused", reason=refused.reason, message=refused.message, held=policy.revision
        )
    return policy


def load_and_take(path: Path, ledger: Ledger, clock: Clock) -> tuple[Policy, bool]:
    """The file's policy, on record as the one that holds, and whether it is another than before.

    Raises: ConfigurationError, ApprovalRequired (POLICY_LOOSENED), PolicyViolation.
    """
    data = read_trusted(path)
    policy = parse_policy(data, path)
    return policy, take_policy(ledger, clock, policy, data, path)


def take_policy(ledger: Ledger, clock: Clock, policy: Policy, data: bytes, path: Path) -> bool:
    """Log that a policy is about to hold; returns False if it is the one that holds already.

    Raises: ApprovalRequired (POLICY_LOOSENED), PolicyViolation.
    """

    def work(transaction: Transaction) -> bool:
        check_policy(transaction, policy, lambda text: parse_policy(text, path))
        before = transaction.setting(IN_FORCE)
        if before == policy.revision:
            if transaction.setting(TEXT) is None:
                keep_policy(transaction, policy, data.decode())
            return False
        keep_policy(transaction, policy, data.decode())
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
                    "quorums": len(policy.quorums),
                },
            )
        )
        return True

    return ledger.transact(work)
