"""OfficerService: the persons who approve."""

from __future__ import annotations

from collections.abc import Iterable

from keyd_client.channel import Connection
from keyd_protos.v1.officers_pb2 import (
    EnrolFirstOfficersRequest,
    EnrolFirstOfficersResponse,
    ListOfficersRequest,
    ListOfficersResponse,
    Officer,
)
from keyd_protos.v1.officers_pb2_grpc import OfficerServiceStub


class Officers:
    """Officers. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def enrol_first(
        self, officers: Iterable[Officer], threshold: int, *, timeout_s: float | None = None
    ) -> EnrolFirstOfficersResponse:
        """Enrol the first officers, once, through the local administrator's socket."""
        request = EnrolFirstOfficersRequest(officers=officers, threshold=threshold)
        return self._connection.call(
            lambda channel: OfficerServiceStub(channel).EnrolFirstOfficers, request, timeout_s
        )

    def list(self, *, timeout_s: float | None = None) -> ListOfficersResponse:
        """All officers that ever were, the base rule, and the digest that approvals name."""
        return self._connection.call(
            lambda channel: OfficerServiceStub(channel).ListOfficers,
            ListOfficersRequest(),
            timeout_s,
        )
