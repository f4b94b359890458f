"""Signatures that wait for officers, as something a program can wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keyd_client.api.proposals import Proposals
from keyd_client.errors import (
    ApprovalPending,
    ApprovalRequired,
    DeadlineExceeded,
    NotAllowed,
    ProposalEnded,
)
from keyd_client.messages import label
from keyd_protos.v1.proposals_pb2 import Proposal
from keyd_protos.v1.signing_pb2 import MetadataSignature

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0


@dataclass(frozen=True)
class PendingApproval:
    """A payload that is signed as soon as officers agree.

    `proposal` is the proposal's name, `rule` what it needs in words. Officers see it with
    ``keyd proposal show``.
    """

    proposal: str
    rule: str
    _proposals: Proposals = field(repr=False)
    _sign: Callable[[], MetadataSignature] = field(repr=False)

    def look(self) -> Proposal:
        """Where the proposal stands now. Raises: KeydClientError."""
        return self._proposals.get(self.proposal, payloads=False).proposal

    def wait(self, timeout_s: float) -> MetadataSignature:
        """The signature, once officers have agreed; asks the daemon now and then, ever less often.

        Raises: ProposalEnded (PROPOSAL_REJECTED, PROPOSAL_CANCELLED, PROPOSAL_EXPIRED,
        PROPOSAL_OVERTAKEN); DeadlineExceeded (APPROVAL_PENDING) after `timeout_s`: wait again.
        KeydClientError, as signing does.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_WAIT_S
        while True:
            found = self.look()
            if found.approved or label(found, "state") == "EXECUTED":
                return self._sign()
            self._check(found)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(
                    "APPROVAL_PENDING",
                    f"officers have not agreed to {self.proposal} yet ({self.rule}): wait again",
                    details={"proposal": self.proposal},
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_WAIT_S)

    def _check(self, found: Proposal) -> None:
        state = label(found, "state")
        if state == "REJECTED":
            self._end("PROPOSAL_REJECTED", "was rejected by officers")
        if state == "CANCELLED":
            self._end("PROPOSAL_CANCELLED", "was taken back")
        if found.expired:
            self._end("PROPOSAL_EXPIRED", "has expired: propose it anew")
        if found.stale:
            self._end("PROPOSAL_OVERTAKEN", f"rests on other {found.stale}: propose it anew")

    def _end(self, reason: str, words: str) -> None:
        message = f"proposal {self.proposal} {words}"
        raise ProposalEnded(reason, message, details={"proposal": self.proposal})


def proposed(refusal: ApprovalRequired, key: str, payload: bytes, proposals: Proposals) -> None:
    """Raise the refusal of `key` anew, in one line with the name of an open proposal.

    As it is if this caller may not propose. Raises: ApprovalRequired, KeydClientError.
    """
    if refusal.reason != "APPROVAL_REQUIRED":
        raise refusal
    try:
        name = proposals.propose(refusal, payload).name
    except NotAllowed:
        raise refusal from None
    rule = refusal.details.get("rule", "")
    raise ApprovalRequired(
        refusal.reason,
        f"{rule} must agree to proposal {name} first: keyd proposal show {name}",
        details={**refusal.details, "proposal": name, "key": key},
    ) from refusal


@contextmanager
def awaitable(proposals: Proposals, sign: Callable[[str], MetadataSignature]) -> Iterator[None]:
    """Make a refusal of `proposed` one that can be waited for; `sign` takes the key's name.

    Raises: ApprovalPending.
    """
    try:
        yield
    except ApprovalRequired as refusal:
        told = refusal.details
        if not {"proposal", "key"} <= told.keys():
            raise
        wait = PendingApproval(
            told["proposal"], told.get("rule", ""), proposals, lambda: sign(told["key"])
        )
        raise ApprovalPending(refusal, wait) from refusal


def pending(
    refusal: ApprovalRequired,
    payload: bytes,
    proposals: Proposals,
    sign: Callable[[], MetadataSignature],
) -> PendingApproval:
    """Propose what was refused, unless it is. Raises: KeydClientError."""
    made = proposals.propose(refusal, payload)
    return PendingApproval(made.name, refusal.details.get("rule", ""), proposals, sign)
