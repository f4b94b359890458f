"""ProposalService: operations that wait for officers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from keyd_client.api.paging import listed
from keyd_client.channel import Connection
from keyd_client.errors import ApprovalRequired, InvalidRequest
from keyd_protos.v1.proposals_pb2 import (
    CancelProposalRequest,
    CreateProposalRequest,
    DecideProposalRequest,
    ExecuteProposalRequest,
    GetProposalRequest,
    GetProposalResponse,
    ListProposalsRequest,
    Proposal,
)
from keyd_protos.v1.proposals_pb2_grpc import ProposalServiceStub


class Proposals:
    """Proposals by name. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        operation: bytes,
        payload: bytes = b"",
        *,
        lifetime_s: int = 0,
        timeout_s: float | None = None,
    ) -> Proposal:
        """Propose an operation (canonical JSON), or find its open proposal.

        `payload`: the bytes whose digest the operation names: metadata, a plan's JSON, a policy
        file. `lifetime_s` 0: a week.
        """
        request = CreateProposalRequest(operation=operation, payload=payload, lifetime_s=lifetime_s)
        return self._connection.call(
            lambda channel: ProposalServiceStub(channel).CreateProposal, request, timeout_s
        ).proposal

    def propose(
        self,
        refusal: ApprovalRequired,
        payload: bytes = b"",
        *,
        lifetime_s: int = 0,
        timeout_s: float | None = None,
    ) -> Proposal:
        """Propose what was refused for want of officers, or find the proposal that is open.

        `payload`: the metadata that was to be signed, or what else `create` needs. Raises also:
        InvalidRequest (OPERATION_UNTOLD) when the refusal tells no whole operation, or one about
        another payload.
        """
        operation = refusal.details.get("operation", "").encode()
        told = hashlib.sha256(operation).hexdigest() == refusal.details.get("operation_sha256")
        about = hashlib.sha256(payload).hexdigest().encode()
        if not told or (payload and b'"' + about + b'"' not in operation):
            raise InvalidRequest(
                "OPERATION_UNTOLD",
                "the refusal does not tell the whole operation: propose it with keyd proposal "
                "create",
            )
        return self.create(operation, payload, lifetime_s=lifetime_s, timeout_s=timeout_s)

    def list(
        self, *, all_states: bool = False, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Proposal]:
        """Open proposals, or all, by name, fetched page by page while iterating."""
        request = ListProposalsRequest(all_states=all_states, page_size=page_size)
        return listed(
            request,
            lambda: self._connection.call(
                lambda channel: ProposalServiceStub(channel).ListProposals, request, timeout_s
            ),
            lambda page: page.proposals,
        )

    def get(
        self, proposal: str, *, payloads: bool = True, timeout_s: float | None = None
    ) -> GetProposalResponse:
        """One proposal; with `payloads` also its bytes, and those that hold in their place now."""
        request = GetProposalRequest(proposal=proposal, without_payloads=not payloads)
        return self._connection.call(
            lambda channel: ProposalServiceStub(channel).GetProposal, request, timeout_s
        )

    def decide(self, proposal: str, envelope: bytes, *, timeout_s: float | None = None) -> Proposal:
        """Hand in an officer's signed approval or rejection (a DSSE envelope)."""
        request = DecideProposalRequest(proposal=proposal, envelope=envelope)
        return self._connection.call(
            lambda channel: ProposalServiceStub(channel).DecideProposal, request, timeout_s
        ).proposal

    def cancel(self, proposal: str, *, timeout_s: float | None = None) -> Proposal:
        """Take a proposal back."""
        request = CancelProposalRequest(proposal=proposal)
        return self._connection.call(
            lambda channel: ProposalServiceStub(channel).CancelProposal, request, timeout_s
        ).proposal

    def execute(self, proposal: str, *, timeout_s: float | None = None) -> Proposal:
        """Do what an approved proposal says."""
        request = ExecuteProposalRequest(proposal=proposal)
        return self._connection.call(
            lambda channel: ProposalServiceStub(channel).ExecuteProposal, request, timeout_s
        ).proposal
