"""AuditService: the log and the proofs about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from keyd.domain.audit import Leaf
from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import audit
from keyd.services.world import World
from keyd_protos.v1 import audit_pb2


class Audit:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(audit_pb2.DESCRIPTOR, "AuditService"),
            {
                "ListEntries": Terms(self.list_entries),
                "GetCheckpoint": Terms(self.get_checkpoint),
                "GetInclusionProof": Terms(self.get_inclusion_proof),
                "GetConsistencyProof": Terms(self.get_consistency_proof),
            },
        )

    def list_entries(
        self, call: Call, request: audit_pb2.ListEntriesRequest
    ) -> audit_pb2.ListEntriesResponse:
        """Entries in order; fewer than asked for where they would not fit one message."""
        fields = Fields()
        start = fields.number("/start", request.start)
        fields.check()
        leaves, size = audit.entries(self._world, call.caller, start, request.page_size)
        return audit_pb2.ListEntriesResponse(
            entries=[
                audit_pb2.LogEntry(index=leaf.index, data=leaf.data, leaf_hash=leaf.leaf_hash)
                for leaf in _fitting(leaves)
            ],
            size=size,
        )

    def get_checkpoint(
        self, call: Call, _request: audit_pb2.GetCheckpointRequest
    ) -> audit_pb2.GetCheckpointResponse:
        """The newest signed tree head."""
        found = audit.checkpoint(self._world, call.caller, call.timeout_s)
        return audit_pb2.GetCheckpointResponse(
            note=found.checkpoint.note,
            verifier_key=found.verifier_key,
            size=found.checkpoint.size,
        )

    def get_inclusion_proof(
        self, call: Call, request: audit_pb2.GetInclusionProofRequest
    ) -> audit_pb2.GetInclusionProofResponse:
        """An entry is in a tree."""
        fields = Fields()
        index = fields.number("/index", request.index)
        size = fields.number("/size", request.size, least=1)
        fields.check()
        hashes, leaf_hash = audit.inclusion_proof(self._world, call.caller, index, size)
        return audit_pb2.GetInclusionProofResponse(hashes=hashes, leaf_hash=leaf_hash)

    def get_consistency_proof(
        self, call: Call, request: audit_pb2.GetConsistencyProofRequest
    ) -> audit_pb2.GetConsistencyProofResponse:
        """A tree begins another."""
        fields = Fields()
        first = fields.number("/first", request.first, least=1)
        second = fields.number("/second", request.second, least=1)
        fields.check()
        hashes = audit.consistency_proof(self._world, call.caller, first, second)
        return audit_pb2.GetConsistencyProofResponse(hashes=hashes)


def _fitting(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """At least one, and as many as one message holds."""
    taken = 0
    for leaf in leaves:
        taken += len(leaf.data)
        if taken > limits.LOG_PAGE_MAX and taken > len(leaf.data):
            return
        yield leaf
