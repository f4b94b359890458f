"""Every method that a policy can name, and what each one touches. Written by hand on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Resource(StrEnum):
    """What a call can touch; a grant must cover each of them by name."""

    REPOSITORY = "repository"
    ROLE = "role"
    KEY = "key"
    TOKEN = "token"


_EVERYTHING = frozenset(Resource)
_NOTHING: frozenset[Resource] = frozenset()
_REPOSITORY = frozenset({Resource.REPOSITORY})
_ROLE = frozenset({Resource.REPOSITORY, Resource.ROLE})
_SIGNATURE = _ROLE | {Resource.KEY}
_KEY = frozenset({Resource.KEY})
_TOKEN = frozenset({Resource.TOKEN})

# Not calls of the contract: what officers decide under these names is done by executing a proposal.
PROPOSED = frozenset(
    {
        "OfficerService.AcceptPolicy",
        "OfficerService.ChangeOfficers",
        "RepositoryService.VoidReservation",
    }
)
# A call that leaves out one of its resources is denied, so a service that forgets to say what it
# is about to touch cannot be let through by a grant that names nothing.
METHODS: Mapping[str, frozenset[Resource]] = MappingProxyType(
    {
        "SigningService.SignMetadata": _SIGNATURE,
        "SigningService.BatchSignMetadata": _SIGNATURE,
        "SigningService.CheckMetadata": _ROLE,
        "SigningService.GetSignature": _ROLE,
        "SigningService.SignOpaque": _KEY,
        "KeyService.CreateKey": _KEY | _TOKEN,
        "KeyService.AdoptKey": _KEY | _TOKEN,
        "KeyService.GetKey": _KEY,
        "KeyService.ListKeys": _NOTHING,
        "KeyService.SuspendKey": _KEY,
        "KeyService.ResumeKey": _KEY,
        "KeyService.DeactivateKey": _KEY,
        "KeyService.MarkKeyCompromised": _KEY,
        "KeyService.DestroyKey": _KEY,
        "TokenService.ListTokens": _NOTHING,
        "TokenService.WatchTokens": _NOTHING,
        "TokenService.ListTokenKeys": _TOKEN,
        "TokenService.UnlockToken": _TOKEN,
        "TokenService.QuarantineToken": _TOKEN,
        "TokenService.ReleaseToken": _TOKEN,
        "RepositoryService.BootstrapRepository": _REPOSITORY,
        "RepositoryService.RegisterRepository": _REPOSITORY,
        "RepositoryService.ListRepositories": _NOTHING,
        "RepositoryService.GetRepositoryState": _REPOSITORY,
        "RepositoryService.GetRoleRules": _ROLE,
        "RepositoryService.SetRoleRules": _ROLE,
        "RepositoryService.ImportMetadata": _REPOSITORY,
        "RotationService.PlanRotation": _REPOSITORY,
        "RotationService.StartRotation": _REPOSITORY,
        "RotationService.GetRotation": _REPOSITORY,
        "RotationService.ListRotations": _REPOSITORY,
        "RotationService.ContinueRotation": _REPOSITORY,
        "RotationService.CancelRotation": _REPOSITORY,
        "RotationService.GetReceipt": _REPOSITORY,
        "RotationService.UploadSignature": _REPOSITORY,
        "RotationService.GetFiles": _REPOSITORY,
        "RotationService.ConfirmPublished": _REPOSITORY,
        "RepositoryService.VoidReservation": _ROLE,
        "OfficerService.EnrolFirstOfficers": _NOTHING,
        "OfficerService.ListOfficers": _NOTHING,
        "OfficerService.ChangeOfficers": _NOTHING,
        "OfficerService.AcceptPolicy": _NOTHING,
        "ProposalService.CreateProposal": _NOTHING,
        "ProposalService.ListProposals": _NOTHING,
        "ProposalService.GetProposal": _NOTHING,
        "ProposalService.DecideProposal": _NOTHING,
        "ProposalService.CancelProposal": _NOTHING,
        "ProposalService.ExecuteProposal": _NOTHING,
        "AuditService.ListEntries": _NOTHING,
        "AuditService.GetCheckpoint": _NOTHING,
        "AuditService.GetInclusionProof": _NOTHING,
        "AuditService.GetConsistencyProof": _NOTHING,
        "Health.Check": _NOTHING,
        "Health.List": _NOTHING,
        "Health.Watch": _NOTHING,
        "ServerReflection.ServerReflectionInfo": _NOTHING,
    }
)

# What a call touches only if it names it: no grant need cover it, and one that does not covers only
# calls without it. A proposal touches what its operation touches.
MAY_TOUCH: Mapping[str, frozenset[Resource]] = MappingProxyType(
    {
        "SigningService.CheckMetadata": _KEY,
        "ProposalService.CreateProposal": _EVERYTHING,
        "ProposalService.ListProposals": _EVERYTHING,
        "ProposalService.GetProposal": _EVERYTHING,
        "ProposalService.DecideProposal": _EVERYTHING,
        "ProposalService.CancelProposal": _EVERYTHING,
        "ProposalService.ExecuteProposal": _EVERYTHING,
    }
)
