"""SigningService: the five ways to ask for a signature, or about one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from keyd.errors import InvalidRequest, KeydError
from keyd.rpc import limits
from keyd.rpc.ahead import fetched_ahead
from keyd.rpc.call import Call
from keyd.rpc.convert_signing import (
    checked_out,
    opaque_out,
    opaque_request,
    recorded_out,
    signature_out,
    signing_request,
)
from keyd.rpc.fields import Fields
from keyd.rpc.interceptors.metrics import SIGNATURE_SECONDS, count_signature
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.rpc.status import code_of, is_refusal, status_of
from keyd.services import check, opaque, sign
from keyd.services.pipeline import Pipeline, Underway
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd.services.world import World
from keyd_protos.v1 import signing_pb2


class Signing:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._groups = sign.signing_groups(world)

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(signing_pb2.DESCRIPTOR, "SigningService"),
            {
                "SignMetadata": Terms(self.sign_metadata, limits.METADATA_REQUEST_MAX),
                "BatchSignMetadata": Terms(self.batch_sign, limits.MESSAGE_MAX, slow=True),
                "CheckMetadata": Terms(self.check_metadata, limits.METADATA_REQUEST_MAX),
                "GetSignature": Terms(self.get_signature),
                "SignOpaque": Terms(self.sign_opaque, limits.OPAQUE_REQUEST_MAX),
            },
        )

    def sign_metadata(
        self, call: Call, request: signing_pb2.SignMetadataRequest
    ) -> signing_pb2.SignMetadataResponse:
        """One payload, one signature."""
        wanted = signing_request(request.metadata, request_id=request.request_id)
        with _counted(wanted.role) as counted:
            made = sign.sign(
                self._world,
                call.caller,
                wanted,
                timeout_s=call.timeout_s,
                groups=self._groups,
            )
            counted.made(made)
        return signing_pb2.SignMetadataResponse(signature=signature_out(made))

    def batch_sign(
        self, call: Call, chunks: Iterator[signing_pb2.BatchSignMetadataRequest]
    ) -> Iterator[signing_pb2.BatchSignMetadataResponse]:
        """One response for each chunk; an item's refusal is a result, not the end."""
        pipeline = Pipeline(self._world, call.caller)
        begun = (_begin(call, pipeline, chunk.items) for chunk in chunks)
        with fetched_ahead(begun) as fetched, pipeline:
            for chunk in fetched:
                yield signing_pb2.BatchSignMetadataResponse(results=chunk.results(call, pipeline))

    def check_metadata(
        self, call: Call, request: signing_pb2.CheckMetadataRequest
    ) -> signing_pb2.CheckMetadataResponse:
        """A judgement without a signature."""
        wanted = signing_request(request.metadata, key_required=False)
        return checked_out(check.check(self._world, call.caller, wanted))

    def get_signature(
        self, call: Call, request: signing_pb2.GetSignatureRequest
    ) -> signing_pb2.GetSignatureResponse:
        """What is recorded for a version."""
        fields = Fields()
        repository = fields.name("/repository", request.repository)
        role = fields.role("/role", request.role)
        version = fields.number("/version", request.version, least=1)
        fields.check()
        return recorded_out(check.recorded(self._world, call.caller, repository, role, version))

    def sign_opaque(
        self, call: Call, request: signing_pb2.SignOpaqueRequest
    ) -> signing_pb2.SignOpaqueResponse:
        """Bytes of another format."""
        wanted = opaque_request(request)
        with _counted("opaque") as counted:
            made = opaque.sign_opaque(self._world, call.caller, wanted, timeout_s=call.timeout_s)
            counted.token, counted.outcome = made.key.token, _outcome(replayed=made.replayed)
        return opaque_out(made)


@dataclass(frozen=True)
class _Chunk:
    """A chunk whose readable items were begun."""

    read: Sequence[SigningRequest | KeydError]
    begun: Underway

    def results(self, call: Call, pipeline: Pipeline) -> list[signing_pb2.BatchSignMetadataResult]:
        """One result for each item, in order."""
        made = iter(pipeline.finish(self.begun))
        return [
            _result(call, request if isinstance(request, KeydError) else next(made))
            for request in self.read
        ]


def _begin(call: Call, pipeline: Pipeline, items: Sequence[signing_pb2.MetadataToSign]) -> _Chunk:
    if not 0 < len(items) <= limits.BATCH_ITEMS_MAX:
        raise InvalidRequest(
            "BATCH_SIZE", f"a chunk has 1 to {limits.BATCH_ITEMS_MAX} items, not {len(items)}"
        )
    read = [_readable(item) for item in items]
    wanted = [request for request in read if isinstance(request, SigningRequest)]
    return _Chunk(read, pipeline.begin(wanted, timeout_s=call.timeout_s))


def _readable(item: signing_pb2.MetadataToSign) -> SigningRequest | KeydError:
    try:
        return signing_request(item)
    except KeydError as refused:
        return refused


def _result(call: Call, outcome: Released | KeydError) -> signing_pb2.BatchSignMetadataResult:
    if isinstance(outcome, KeydError):
        count_signature("", "", _failure(outcome))
        status = status_of(outcome, call.call_id, limits.BATCH_ERROR_DETAILS_MAX)
        return signing_pb2.BatchSignMetadataResult(error=status)
    token = outcome.key.token if outcome.key else ""
    count_signature(outcome.role, token, _outcome(replayed=outcome.replayed))
    return signing_pb2.BatchSignMetadataResult(signature=signature_out(outcome))


class _Counted:
    """What becomes of one request, for the metrics."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.token = ""
        self.outcome = ""

    def made(self, made: Released) -> None:
        self.role = made.role
        self.token = made.key.token if made.key else ""
        self.outcome = _outcome(replayed=made.replayed)


@contextmanager
def _counted(role: str) -> Iterator[_Counted]:
    counted = _Counted(role)
    started = time.monotonic()
    try:
        yield counted
    except KeydError as failure:
        counted.outcome = _failure(failure)
        raise
    finally:
        outcome = counted.outcome or "failed"
        count_signature(counted.role, counted.token, outcome)
        SIGNATURE_SECONDS.labels(outcome).observe(time.monotonic() - started)


def _outcome(*, replayed: bool) -> str:
    return "replayed" if replayed else "signed"


def _failure(error: KeydError) -> str:
    return "refused" if is_refusal(code_of(error)) else "failed"
