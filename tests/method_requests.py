"""A well-formed request of every method, about what is "here" or "elsewhere"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]

from keyd.domain import approval, canonical, dsse, operations, receipts
from keyd.domain.operations import VoidReservation
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
from tests.worlds import Author

ROLE = {"admin": "targets", "plain": "targets", "ci": "snapshot"}


def about(repository: str) -> VoidReservation:
    return VoidReservation(repository, "targets", 0, 1, "0" * 64, 0)


def to_sign(author: Author, identity: str, where: str) -> signing_pb2.MetadataToSign:
    role = ROLE.get(identity, "targets") if where == "here" else "timestamp"
    signed = {
        "targets": author.targets(),
        "snapshot": author.snapshot(),
        "timestamp": author.timestamp(),
    }
    return signing_pb2.MetadataToSign(
        key=role, repository="demo", role=role, payload=canonical.encode(signed[role])
    )


Build = Callable[[Author, str, str], Message]


def _key(kind: type[Message]) -> Build:
    return lambda _author, _identity, where: kind(name="spare" if where == "here" else "elsewhere")


def _token(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        token="soft" if where == "here" else "none", **more
    )


def _repository(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        repository="demo" if where == "here" else "other", **more
    )


def _role(kind: type[Message], **more: Any) -> Build:
    return lambda _author, identity, where: kind(
        repository="demo",
        role=ROLE.get(identity, "targets") if where == "here" else "timestamp",
        **more,
    )


def _plain(message: Message) -> Build:
    return lambda _author, _identity, _where: message


def _rotation(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        rotation="r-demo" if where == "here" else "r-other", **more
    )


def _change(kind: type[Message]) -> Build:
    return lambda _author, _identity, where: kind(
        change=rotations_pb2.RotationChange(
            kind=rotations_pb2.ROTATION_KIND_ROOT,
            repository="demo" if where == "here" else "other",
        )
    )


def _proposal(kind: type[Message], **more: Any) -> Build:
    return lambda _author, _identity, where: kind(
        proposal="p-demo" if where == "here" else "p-other", **more
    )


# Well-formed, and about nothing that there is.
RECEIPT = dsse.encode(
    dsse.Envelope(
        receipts.PAYLOAD_TYPE,
        canonical.encode(
            {"daemon": "", "rotation": "r-demo", "role": "root", "epoch": 0, "version": 1}
        ),
        "0",
        b"x",
    )
)
DECISION = dsse.encode(
    dsse.Envelope(
        approval.PAYLOAD_TYPE,
        approval.Statement(
            "nobody",
            approval.Decision.APPROVE,
            approval.Basis("", "p-nothing", "", "", "", "", "", "", ""),
        ).encode(),
        "0",
        b"x",
    )
)
RULES = repositories_pb2.RoleRules(
    expiry_max_s=1000, payload_max_bytes=1000, threshold_floor=1, keyid_formula="either"
)
FILE = repositories_pb2.MetadataFile(role="targets", content=b"{}")
REQUESTS: Mapping[str, Build] = {
    "SignMetadata": lambda author, identity, where: signing_pb2.SignMetadataRequest(
        metadata=to_sign(author, identity, where)
    ),
    "BatchSignMetadata": lambda author, identity, where: signing_pb2.BatchSignMetadataRequest(
        items=[to_sign(author, identity, where)]
    ),
    "CheckMetadata": lambda author, identity, where: signing_pb2.CheckMetadataRequest(
        metadata=to_sign(author, identity, where)
    ),
    "GetSignature": _role(signing_pb2.GetSignatureRequest, version=1),
    "SignOpaque": lambda _author, _identity, where: signing_pb2.SignOpaqueRequest(
        key="layouts" if where == "here" else "more-layouts", data=b"x"
    ),
    "CreateKey": lambda _author, _identity, where: keys_pb2.CreateKeyRequest(
        name="targets" if where == "here" else "elsewhere", token="soft"
    ),
    "AdoptKey": lambda _author, _identity, where: keys_pb2.AdoptKeyRequest(
        name="targets" if where == "here" else "elsewhere", token="soft", cka_id=b"none"
    ),
    "GetKey": _key(keys_pb2.GetKeyRequest),
    "ListKeys": _plain(keys_pb2.ListKeysRequest()),
    "SuspendKey": _key(keys_pb2.SuspendKeyRequest),
    "ResumeKey": _key(keys_pb2.ResumeKeyRequest),
    "DeactivateKey": _key(keys_pb2.DeactivateKeyRequest),
    "MarkKeyCompromised": _key(keys_pb2.MarkKeyCompromisedRequest),
    "DestroyKey": _key(keys_pb2.DestroyKeyRequest),
    "ListTokens": _plain(tokens_pb2.ListTokensRequest()),
    "UnlockToken": _token(tokens_pb2.UnlockTokenRequest, pin=b"1234"),
    "QuarantineToken": _token(tokens_pb2.QuarantineTokenRequest, comment="test"),
    "ReleaseToken": _token(tokens_pb2.ReleaseTokenRequest),
    "WatchTokens": _plain(tokens_pb2.WatchTokensRequest()),
    "ListTokenKeys": _token(tokens_pb2.ListTokenKeysRequest),
    "BootstrapRepository": _repository(
        repositories_pb2.BootstrapRepositoryRequest, root_keys=["targets"], root_threshold=1
    ),
    "RegisterRepository": lambda author, _identity, where: (
        repositories_pb2.RegisterRepositoryRequest(
            repository="demo" if where == "here" else "other",
            root_files=[canonical.encode({"signatures": [], "signed": author.root()})],
        )
    ),
    "ListRepositories": _plain(repositories_pb2.ListRepositoriesRequest()),
    "GetRepositoryState": _repository(repositories_pb2.GetRepositoryStateRequest),
    "GetRoleRules": _role(repositories_pb2.GetRoleRulesRequest),
    "SetRoleRules": _role(repositories_pb2.SetRoleRulesRequest, rules=RULES),
    "ImportMetadata": _repository(repositories_pb2.ImportMetadataRequest, files=[FILE]),
    "PlanRotation": _change(rotations_pb2.PlanRotationRequest),
    "StartRotation": _change(rotations_pb2.StartRotationRequest),
    "GetRotation": _rotation(rotations_pb2.GetRotationRequest),
    "ListRotations": _repository(rotations_pb2.ListRotationsRequest),
    "ContinueRotation": _rotation(rotations_pb2.ContinueRotationRequest),
    "CancelRotation": _rotation(rotations_pb2.CancelRotationRequest),
    "GetReceipt": _rotation(rotations_pb2.GetReceiptRequest),
    "UploadSignature": _rotation(
        rotations_pb2.UploadSignatureRequest, receipt=RECEIPT, keyid="0", signature=b"x"
    ),
    "GetFiles": _rotation(rotations_pb2.GetFilesRequest),
    "ConfirmPublished": _rotation(rotations_pb2.ConfirmPublishedRequest),
    "EnrolFirstOfficers": _plain(officers_pb2.EnrolFirstOfficersRequest(threshold=2)),
    "ListOfficers": _plain(officers_pb2.ListOfficersRequest()),
    "CreateProposal": lambda _author, _identity, where: proposals_pb2.CreateProposalRequest(
        operation=operations.encode(about("demo" if where == "here" else "other"))
    ),
    "ListProposals": _plain(proposals_pb2.ListProposalsRequest()),
    "GetProposal": _proposal(proposals_pb2.GetProposalRequest),
    "DecideProposal": _proposal(proposals_pb2.DecideProposalRequest, envelope=DECISION),
    "CancelProposal": _proposal(proposals_pb2.CancelProposalRequest),
    "ExecuteProposal": _proposal(proposals_pb2.ExecuteProposalRequest),
    "ListEntries": _plain(audit_pb2.ListEntriesRequest()),
    "GetCheckpoint": _plain(audit_pb2.GetCheckpointRequest()),
    "GetInclusionProof": _plain(audit_pb2.GetInclusionProofRequest(index=0, size=1)),
    "GetConsistencyProof": _plain(audit_pb2.GetConsistencyProofRequest(first=1, second=2)),
    "Check": _plain(health_pb2.HealthCheckRequest()),
    "Watch": _plain(health_pb2.HealthCheckRequest()),
    "List": _plain(health_pb2.HealthListRequest()),
    "ServerReflectionInfo": _plain(reflection_pb2.ServerReflectionRequest(list_services="")),
    "ExportKey": _plain(Empty()),
}
