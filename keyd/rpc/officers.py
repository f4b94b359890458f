"""OfficerService: the first officers, and who they are."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.convert_officers import officer_in, officers_out
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import officers
from keyd.services.world import World
from keyd_protos.v1 import officers_pb2 as pb


class Officers:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(pb.DESCRIPTOR, "OfficerService"),
            {
                "EnrolFirstOfficers": Terms(self.enrol_first, limits.MEDIUM_REQUEST_MAX),
                "ListOfficers": Terms(self.list_officers),
            },
        )

    def enrol_first(
        self, call: Call, request: pb.EnrolFirstOfficersRequest
    ) -> pb.EnrolFirstOfficersResponse:
        """The genesis."""
        fields = Fields()
        people = [
            officer_in(fields, f"/officers/{index}", officer)
            for index, officer in enumerate(request.officers)
        ]
        fields.check()
        enrolled = officers.enrol_first(self._world, call.caller, people, request.threshold)
        return pb.EnrolFirstOfficersResponse(
            officers=officers_out(enrolled), officers_sha256=bytes.fromhex(enrolled.digest)
        )

    def list_officers(
        self, call: Call, _request: pb.ListOfficersRequest
    ) -> pb.ListOfficersResponse:
        """All that ever were."""
        found, threshold = officers.list_officers(self._world, call.caller)
        return pb.ListOfficersResponse(
            officers=officers_out(found),
            base_threshold=threshold,
            officers_sha256=bytes.fromhex(found.digest),
        )
