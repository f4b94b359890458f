"""AuditService: the append-only log and its proofs. Verify with ``keyd audit verify``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyd_client.channel import Connection
from keyd_protos.v1.audit_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetInclusionProofRequest,
    GetInclusionProofResponse,
    ListEntriesRequest,
    LogEntry,
)
from keyd_protos.v1.audit_pb2_grpc import AuditServiceStub


class Audit:
    """The log. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def entries(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        page_size: int = 1000,
        timeout_s: float | None = None,
    ) -> Iterator[LogEntry]:
        """Entries from `start` up to but not including `end` (None: as long as there are any)."""
        while end is None or start < end:
            wanted = page_size if end is None else min(page_size, end - start)
            page = self._connection.call(
                lambda channel: AuditServiceStub(channel).ListEntries,
                ListEntriesRequest(start=start, page_size=wanted),
                timeout_s,
            )
            if not page.entries:
                return
            yield from page.entries
            start += len(page.entries)

    def size(self, *, timeout_s: float | None = None) -> int:
        """How many entries the log has now."""
        request = ListEntriesRequest(start=0, page_size=1)
        return self._connection.call(
            lambda channel: AuditServiceStub(channel).ListEntries, request, timeout_s
        ).size

    def checkpoint(self, *, timeout_s: float | None = None) -> GetCheckpointResponse:
        """The newest signed tree head."""
        return self._connection.call(
            lambda channel: AuditServiceStub(channel).GetCheckpoint,
            GetCheckpointRequest(),
            timeout_s,
        )

    def inclusion_proof(
        self, index: int, size: int, *, timeout_s: float | None = None
    ) -> GetInclusionProofResponse:
        """Audit path of entry `index` in the tree of `size` entries (RFC 6962 2.1.1)."""
        request = GetInclusionProofRequest(index=index, size=size)
        return self._connection.call(
            lambda channel: AuditServiceStub(channel).GetInclusionProof, request, timeout_s
        )

    def consistency_proof(
        self, first: int, second: int, *, timeout_s: float | None = None
    ) -> Sequence[bytes]:
        """Proof that the tree of `first` entries begins that of `second` (RFC 6962 2.1.2)."""
        request = GetConsistencyProofRequest(first=first, second=second)
        answer = self._connection.call(
            lambda channel: AuditServiceStub(channel).GetConsistencyProof, request, timeout_s
        )
        return tuple(answer.hashes)
