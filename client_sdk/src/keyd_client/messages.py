"""The messages of the keyd API that `Client` returns, under one name.

They are the protobuf messages themselves: their meaning is documented once, in
``protos/keyd/v1``, and a second set of classes would only drift from it. Digests are 32 raw
bytes, times `google.protobuf.Timestamp`. `as_dict` makes plain data of any of them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyd_client.errors import InvalidRequest
from keyd_protos.v1.audit_pb2 import (
    GetCheckpointResponse,
    GetInclusionProofResponse,
    LogEntry,
)
from keyd_protos.v1.keys_pb2 import Key, KeyContent, KeyState
from keyd_protos.v1.officers_pb2 import (
    EnrolFirstOfficersResponse,
    ListOfficersResponse,
    Officer,
    OfficerKey,
    OfficerKeyKind,
    OfficerKeyState,
    OfficerState,
)
from keyd_protos.v1.proposals_pb2 import (
    Approval,
    Decision,
    GetProposalResponse,
    Proposal,
    ProposalState,
    QuorumRule,
    RuleStanding,
)
from keyd_protos.v1.repositories_pb2 import (
    GetRepositoryStateResponse,
    GetRoleRulesResponse,
    ImportedFile,
    RegisterRepositoryResponse,
    Repository,
    RepositoryStage,
    RoleRules,
    RoleState,
)
from keyd_protos.v1.rotations_pb2 import (
    ContinueRotationResponse,
    GetReceiptResponse,
    GetRotationResponse,
    NewKey,
    PlanRotationResponse,
    RoleChange,
    Rotation,
    RotationChange,
    RotationFile,
    RotationKind,
    RotationPlan,
    RotationState,
    RotationStep,
    SignedVersion,
    UploadSignatureResponse,
)
from keyd_protos.v1.signing_pb2 import (
    BatchSignMetadataResult,
    CheckMetadataResponse,
    Finding,
    GetSignatureResponse,
    MetadataSignature,
    MetadataToSign,
    SignOpaqueResponse,
)
from keyd_protos.v1.tokens_pb2 import Token, TokenKey, TokenState, WatchTokensResponse

__all__ = [
    "Approval",
    "BatchSignMetadataResult",
    "CheckMetadataResponse",
    "ContinueRotationResponse",
    "Decision",
    "EnrolFirstOfficersResponse",
    "Finding",
    "GetCheckpointResponse",
    "GetInclusionProofResponse",
    "GetProposalResponse",
    "GetReceiptResponse",
    "GetRepositoryStateResponse",
    "GetRoleRulesResponse",
    "GetRotationResponse",
    "GetSignatureResponse",
    "ImportedFile",
    "Key",
    "KeyContent",
    "KeyState",
    "ListOfficersResponse",
    "LogEntry",
    "MetadataSignature",
    "MetadataToSign",
    "NewKey",
    "Officer",
    "OfficerKey",
    "OfficerKeyKind",
    "OfficerKeyState",
    "OfficerState",
    "PlanRotationResponse",
    "Proposal",
    "ProposalState",
    "QuorumRule",
    "RegisterRepositoryResponse",
    "Repository",
    "RepositoryStage",
    "RoleChange",
    "RoleRules",
    "RoleState",
    "Rotation",
    "RotationChange",
    "RotationFile",
    "RotationKind",
    "RotationPlan",
    "RotationState",
    "RotationStep",
    "RuleStanding",
    "SignOpaqueResponse",
    "SignedVersion",
    "Token",
    "TokenKey",
    "TokenState",
    "UploadSignatureResponse",
    "WatchTokensResponse",
    "as_dict",
    "content_of",
    "label",
]


def label(message: Message, field: str) -> str:
    """The short name of an enum field: "ACTIVE" for KEY_STATE_ACTIVE, "" when unspecified."""
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    return _enum_label(descriptor, getattr(message, field))


def content_of(name: str) -> KeyContent.ValueType:
    """The key content "tuf" or "opaque", as words are typed. Raises: InvalidRequest."""
    for content in (KeyContent.KEY_CONTENT_TUF, KeyContent.KEY_CONTENT_OPAQUE):
        if KeyContent.Name(content) == f"KEY_CONTENT_{name.upper()}":
            return content
    raise InvalidRequest("KEY_CONTENT_UNKNOWN", f"{name!r} is neither tuf nor opaque")


def as_dict(message: Message) -> dict[str, Any]:
    """Plain data of a message, every field present, in the order of the .proto file.

    Bytes become lower-case hex, times RFC 3339 text (None: not set), enums their short names.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_plain(field, item) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _plain(field, value)


def _plain(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_dict(value)
    if field.enum_type is not None:
        return _enum_label(field, value)
    return value.hex() if isinstance(value, bytes) else value


def _enum_label(field: Any, number: int) -> str:
    """The name without the prefix that all values of the enum share (buf's naming rule)."""
    values = field.enum_type.values_by_number
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    short: str = values[number].name.removeprefix(prefix) if number in values else str(number)
    return "" if number == 0 else short
