"""ProposalService: operations that wait for officers."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain import operations
from keyd.domain.dsse import MAX_BYTES as ENVELOPE_MAX
from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.convert_officers import proposal_out
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import proposals
from keyd.services.world import World
from keyd_protos.v1 import proposals_pb2 as pb

_LIFETIME_S = 7 * 86_400
_CREATE_MAX = limits.PAYLOAD_MAX + operations.MAX_BYTES + limits.FRAMING_MAX
_DECIDE_MAX = ENVELOPE_MAX + limits.FRAMING_MAX
_PAYLOADS_MAX = 4_000_000


class Proposals:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(pb.DESCRIPTOR, "ProposalService"),
            {
                "CreateProposal": Terms(self.create_proposal, _CREATE_MAX),
                "ListProposals": Terms(self.list_proposals),
                "GetProposal": Terms(self.get_proposal),
                "DecideProposal": Terms(self.decide_proposal, _DECIDE_MAX),
                "CancelProposal": Terms(self.cancel_proposal),
                "ExecuteProposal": Terms(self.execute_proposal, slow=True),
            },
        )

    def create_proposal(
        self, call: Call, request: pb.CreateProposalRequest
    ) -> pb.CreateProposalResponse:
        """Proposed, or found."""
        fields = Fields()
        operation = fields.octets("/operation", request.operation, operations.MAX_BYTES)
        lifetime_s = fields.number("/lifetime_s", request.lifetime_s)
        fields.check()
        made = proposals.create(
            self._world,
            call.caller,
            operations.decode(operation),
            request.payload,
            lifetime_s or _LIFETIME_S,
        )
        return pb.CreateProposalResponse(proposal=proposal_out(made))

    def list_proposals(
        self, call: Call, request: pb.ListProposalsRequest
    ) -> pb.ListProposalsResponse:
        """A page of proposals."""
        fields = Fields()
        page_token = fields.name("/page_token", request.page_token, required=False)
        fields.check()
        page = proposals.list_proposals(
            self._world,
            call.caller,
            all_states=request.all_states,
            page_size=request.page_size,
            page_token=page_token,
        )
        return pb.ListProposalsResponse(
            proposals=[proposal_out(shown, proofs=False) for shown in page.items],
            next_page_token=page.next_token,
        )

    def get_proposal(self, call: Call, request: pb.GetProposalRequest) -> pb.GetProposalResponse:
        """All there is to judge."""
        shown = proposals.get(self._world, call.caller, _name(request.proposal))
        if request.without_payloads:
            return pb.GetProposalResponse(proposal=proposal_out(shown))
        payload, trusted = shown.proposal.payload, shown.trusted
        fits = len(payload) + len(trusted) <= _PAYLOADS_MAX
        return pb.GetProposalResponse(
            proposal=proposal_out(shown),
            payload=payload,
            trusted=trusted if fits else b"",
            trusted_omitted=not fits,
        )

    def decide_proposal(
        self, call: Call, request: pb.DecideProposalRequest
    ) -> pb.DecideProposalResponse:
        """What an officer signed."""
        fields = Fields()
        name = fields.name("/proposal", request.proposal)
        envelope = fields.octets("/envelope", request.envelope, ENVELOPE_MAX)
        fields.check()
        decided = proposals.decide(self._world, call.caller, name, envelope)
        return pb.DecideProposalResponse(proposal=proposal_out(decided))

    def cancel_proposal(
        self, call: Call, request: pb.CancelProposalRequest
    ) -> pb.CancelProposalResponse:
        """Taken back."""
        ended = proposals.cancel(self._world, call.caller, _name(request.proposal))
        return pb.CancelProposalResponse(proposal=proposal_out(ended))

    def execute_proposal(
        self, call: Call, request: pb.ExecuteProposalRequest
    ) -> pb.ExecuteProposalResponse:
        """Done."""
        done = proposals.execute(
            self._world, call.caller, _name(request.proposal), timeout_s=call.timeout_s
        )
        return pb.ExecuteProposalResponse(proposal=proposal_out(done))


def _name(value: str) -> str:
    fields = Fields()
    name = fields.name("/proposal", value)
    fields.check()
    return name
