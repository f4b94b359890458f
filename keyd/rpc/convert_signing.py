"""Signing requests in, signatures and judgements out."""

from __future__ import annotations

import hashlib

from keyd.rpc import limits
from keyd.rpc.convert import findings_out
from keyd.rpc.fields import Fields
from keyd.services.check import Checked, Recorded
from keyd.services.opaque import OpaqueReleased, OpaqueRequest
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd_protos.v1 import signing_pb2


def signing_request(
    message: signing_pb2.MetadataToSign, *, request_id: str = "", key_required: bool = True
) -> SigningRequest:
    """The only values that signing looks at. Raises: InvalidRequest (FIELD_...)."""
    fields = Fields()
    request = SigningRequest(
        key=fields.name("/metadata/key", message.key, required=key_required),
        payload=fields.octets("/metadata/payload", message.payload, limits.PAYLOAD_MAX),
        repository=fields.name("/metadata/repository", message.repository, required=False),
        role=fields.role("/metadata/role", message.role, required=False),
        key_sha256=fields.digest("/metadata/key_sha256", message.key_sha256),
        payload_sha256=fields.digest("/metadata/payload_sha256", message.payload_sha256),
        confirmed_change=fields.digest(
            "/metadata/confirmed_change_sha256", message.confirmed_change_sha256
        ),
        request_id=fields.request_id("/request_id", request_id),
    )
    fields.check()
    return request


def opaque_request(message: signing_pb2.SignOpaqueRequest) -> OpaqueRequest:
    """Raises: InvalidRequest (FIELD_...)."""
    fields = Fields()
    request = OpaqueRequest(
        key=fields.name("/key", message.key),
        data=fields.octets("/data", message.data, limits.OPAQUE_DATA_MAX),
        key_sha256=fields.digest("/key_sha256", message.key_sha256),
        data_sha256=fields.digest("/data_sha256", message.data_sha256),
        request_id=fields.request_id("/request_id", message.request_id),
    )
    fields.check()
    return request


def signature_out(made: Released) -> signing_pb2.MetadataSignature:
    """A released or recorded signature; `key` and `scheme` are empty if it was made elsewhere."""
    return signing_pb2.MetadataSignature(
        key=made.key.name if made.key else "",
        key_sha256=bytes.fromhex(made.fingerprint),
        scheme=made.key.scheme.value if made.key else "",
        signature=made.signature,
        signature_sha256=hashlib.sha256(made.signature).digest(),
        payload_sha256=bytes.fromhex(made.digest),
        repository=made.repository,
        role=made.role,
        epoch=made.epoch,
        version=made.version,
        replayed=made.replayed,
        accepted=made.accepted,
        missing_signatures=made.missing,
        log_index=made.log_index,
        warnings=findings_out(made.warnings),
    )


def opaque_out(made: OpaqueReleased) -> signing_pb2.SignOpaqueResponse:
    """A released signature over opaque bytes."""
    return signing_pb2.SignOpaqueResponse(
        signature=made.signature,
        signature_sha256=hashlib.sha256(made.signature).digest(),
        data_sha256=bytes.fromhex(made.digest),
        scheme=made.key.scheme.value,
        key_sha256=bytes.fromhex(made.key.fingerprint),
        replayed=made.replayed,
        log_index=made.log_index,
    )


def checked_out(judged: Checked) -> signing_pb2.CheckMetadataResponse:
    """A judgement."""
    return signing_pb2.CheckMetadataResponse(
        would_sign=judged.would_sign,
        findings=findings_out(judged.findings),
        repository=judged.repository,
        role=judged.role,
        next_version=judged.next_version,
        change=judged.change,
        change_sha256=bytes.fromhex(judged.change_digest),
        payload_sha256=bytes.fromhex(judged.digest),
    )


def recorded_out(found: Recorded) -> signing_pb2.GetSignatureResponse:
    """A recorded version."""
    return signing_pb2.GetSignatureResponse(
        payload=found.payload, signatures=[signature_out(made) for made in found.signatures]
    )
