"""A gRPC server that answers as a test scripts it: for what a real daemon would never say."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from keyd_client.echo import fingerprint
from keyd_client.profile import Profile
from keyd_protos.v1 import (
    audit_pb2,
    keys_pb2,
    officers_pb2,
    proposals_pb2,
    repositories_pb2,
    rotations_pb2,
    signing_pb2,
    tokens_pb2,
)

Answer = Callable[[Any], Any]
SERVICES = (
    signing_pb2.DESCRIPTOR,
    keys_pb2.DESCRIPTOR,
    tokens_pb2.DESCRIPTOR,
    repositories_pb2.DESCRIPTOR,
    audit_pb2.DESCRIPTOR,
    officers_pb2.DESCRIPTOR,
    proposals_pb2.DESCRIPTOR,
    rotations_pb2.DESCRIPTOR,
)


@dataclass
class ScriptedDaemon:
    """Listens on `socket`; `answers` maps a method name to a function of the request.

    A function returns the answer, an iterator of them (streams), or raises `Refusal`.
    """

    socket: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    deadlines: list[float] = field(default_factory=list)
    signers: dict[str, CryptoSigner] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.answers = {
            "SignMetadata": self.sign,
            "SignOpaque": self.sign_opaque,
            "GetKey": self.get_key,
            "BatchSignMetadata": self.batch,
        } | self.answers
        self.server = self._server()

    def __enter__(self) -> ScriptedDaemon:
        self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(0).wait()

    @property
    def profile(self) -> Profile:
        return Profile(f"unix:{self.socket}", timeout_s=10)

    def of(self, kind: type) -> list[Any]:
        """The requests of one type, in order of arrival."""
        with self._lock:
            return [request for request in self.requests if isinstance(request, kind)]

    def add_key(self, name: str) -> CryptoSigner:
        self.signers[name] = CryptoSigner.generate_ecdsa()
        return self.signers[name]

    def released(self, item: Any) -> signing_pb2.MetadataSignature:
        signer = self.signers[item.key]
        signature = bytes.fromhex(signer.sign(item.payload).signature)
        return signing_pb2.MetadataSignature(
            key=item.key,
            key_sha256=fingerprint(signer.public_key),
            scheme=signer.public_key.scheme,
            signature=signature,
            signature_sha256=hashlib.sha256(signature).digest(),
            payload_sha256=hashlib.sha256(item.payload).digest(),
            repository=item.repository or "demo",
            role=item.role or "targets",
            version=1,
            accepted=True,
        )

    def sign(self, request: Any) -> signing_pb2.SignMetadataResponse:
        return signing_pb2.SignMetadataResponse(signature=self.released(request.metadata))

    def batch(self, requests: Any) -> Iterator[signing_pb2.BatchSignMetadataResponse]:
        for chunk in requests:
            self._saw(chunk)
            results = [
                signing_pb2.BatchSignMetadataResult(signature=self.released(item))
                for item in chunk.items
            ]
            yield signing_pb2.BatchSignMetadataResponse(results=results)

    def sign_opaque(self, request: Any) -> signing_pb2.SignOpaqueResponse:
        signer = self.signers[request.key]
        signature = bytes.fromhex(signer.sign(request.data).signature)
        return signing_pb2.SignOpaqueResponse(
            signature=signature,
            signature_sha256=hashlib.sha256(signature).digest(),
            data_sha256=hashlib.sha256(request.data).digest(),
            scheme=signer.public_key.scheme,
            key_sha256=fingerprint(signer.public_key),
        )

    def get_key(self, request: Any) -> keys_pb2.GetKeyResponse:
        public = self.signers[request.name].public_key
        key = keys_pb2.Key(
            name=request.name,
            scheme=public.scheme,
            content=keys_pb2.KEY_CONTENT_OPAQUE
            if request.name.startswith("opaque")
            else keys_pb2.KEY_CONTENT_TUF,
            key_sha256=fingerprint(public),
            tuf_keyid=public.keyid,
            tuf_key_json=encode_canonical(public.to_dict()) or "",
        )
        return keys_pb2.GetKeyResponse(key=key)

    def _saw(self, request: Any) -> None:
        with self._lock:
            self.requests.append(request)

    def _server(self) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(8))
        for file in SERVICES:
            for service in file.services_by_name.values():
                handlers = {m.name: self._handler(m) for m in service.methods}
                server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                )
        return server

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            if not method.client_streaming:
                self._saw(request)
            with self._lock:
                self.peers.add(context.peer())
                self.deadlines.append(context.time_remaining() or 0.0)
            try:
                return self.answers[method.name](request)
            except Refusal as refusal:
                context.abort_with_status(_AsGrpc(refusal.status))

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from behave(request, context)
            except Refusal as refusal:
                context.abort_with_status(_AsGrpc(refusal.status))

        kind = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        return kind(
            stream if method.server_streaming else behave,
            request_deserializer=method.input_type._concrete_class.FromString,
            response_serializer=method.output_type._concrete_class.SerializeToString,
        )


class Refusal(Exception):
    """A status with keyd's details, or without a `reason` one that gRPC itself would send."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        retry_s: float | None = None,
        violations: tuple[tuple[str, str, str], ...] = (),
        **metadata: str,
    ) -> None:
        details: list[Any] = []
        if reason:
            details.append(ErrorInfo(reason=reason, domain="keyd", metadata=metadata))
        if retry_s is not None:
            delay = Duration()
            delay.FromMicroseconds(round(retry_s * 1e6))
            details.append(RetryInfo(retry_delay=delay))
        if violations:
            details.append(
                PreconditionFailure(
                    violations=[
                        PreconditionFailure.Violation(
                            type=rule, subject=pointer, description=f"{kind}: mend it: so"
                        )
                        for rule, kind, pointer in violations
                    ]
                )
            )
        packed = [Packed() for _ in details]
        for box, detail in zip(packed, details, strict=True):
            box.Pack(detail)
        self.status = Status(code=code.value[0], message=f"{reason}: {message}", details=packed)


class _AsGrpc(grpc.Status):
    def __init__(self, status: Status) -> None:
        self.code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        self.details = status.message
        packed = ("grpc-status-details-bin", status.SerializeToString())
        self.trailing_metadata = (packed,) if status.details else ()
