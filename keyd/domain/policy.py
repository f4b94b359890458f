"""Who may call what on which repositories, roles, keys and tokens: grants, and nothing else.

Denied is what no grant allows. Names are compared byte for byte: no case folding, no Unicode
normalisation, no wildcards, no regular expressions. Invariants that no policy can lift (local
administrator only, one repository per key) live in the services.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keyd.domain.methods import METHODS, Resource
from keyd.domain.quorum import QuorumRule
from keyd.domain.trust import TOP_LEVEL

PRINCIPAL_KINDS = ("unix", "uri", "dns")
_RESOURCES = tuple(Resource)


@dataclass(frozen=True)
class Caller:
    """An authenticated peer.

    `principal` is made by `principal_name`. `local_admin`: the call came in on the Unix socket that
    the configuration marks as the administrator's.
    """

    principal: str
    local_admin: bool


@dataclass(frozen=True)
class Action:
    """A method ("SigningService.SignMetadata") and what it touches; "" where it touches none."""

    method: str
    repository: str = ""
    role: str = ""
    key: str = ""
    token: str = ""

    def touches(self, resource: Resource) -> str:
        """The name of what is touched, or ""."""
        # A StrEnum's member is its value.
        name: str = getattr(self, resource)
        return name


@dataclass(frozen=True)
class Grant:
    """One permission: all of its principals may call all of its methods on all of its resources.

    `line` is its line in the policy file, the first being 1. `any_delegated_role` covers every
    role but root, targets, snapshot and timestamp.
    """

    name: str
    line: int
    principals: frozenset[str]
    methods: frozenset[str]
    repositories: frozenset[str] = frozenset()
    any_repository: bool = False
    roles: frozenset[str] = frozenset()
    any_role: bool = False
    any_delegated_role: bool = False
    keys: frozenset[str] = frozenset()
    any_key: bool = False
    tokens: frozenset[str] = frozenset()
    any_token: bool = False

    def covers(self, resource: Resource, name: str) -> bool:
        """Whether the grant names this resource, or says that it covers all of its kind."""
        if resource is Resource.REPOSITORY:
            return self.any_repository or name in self.repositories
        if resource is Resource.ROLE:
            delegated = self.any_delegated_role and name not in TOP_LEVEL
            return self.any_role or delegated or name in self.roles
        if resource is Resource.KEY:
            return self.any_key or name in self.keys
        return self.any_token or name in self.tokens


@dataclass(frozen=True)
class Quorum:
    """A demand: all that `scope` covers needs the officers of `rule`. A scope has no principals."""

    rule: QuorumRule
    scope: Grant

    def demands(self, action: Action) -> bool:
        """Whether the action falls under the demand; what it does not name counts as covered."""
        return action.method in self.scope.methods and all(
            not action.touches(resource) or self.scope.covers(resource, action.touches(resource))
            for resource in METHODS[action.method]
        )


@dataclass(frozen=True)
class Policy:
    """All of one policy file; `revision` is the SHA-256 of the file, 64 hex digits."""

    revision: str
    grants: tuple[Grant, ...]
    quorums: tuple[Quorum, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What was decided; `grant` allowed it, or is the one that came nearest (None: none did)."""

    allowed: bool
    grant: Grant | None
    explanation: str


def principal_name(kind: Literal["unix", "uri", "dns"], name: str) -> str:
    """The principal of a Unix socket's configured name, or of a certificate's URI or DNS SAN.

    The kind is part of the name ("unix:release", "uri:spiffe://example.org/ci",
    "dns:ci.example.org"), so that no certificate can speak for a socket.
    """
    return f"{kind}:{name}"


def may_call(policy: Policy, caller: Caller, method: str) -> bool:
    """Whether some grant gives the caller this method at all; the resource is judged later."""
    return method in METHODS and any(
        caller.principal in grant.principals and method in grant.methods for grant in policy.grants
    )


def decide(policy: Policy, caller: Caller, action: Action) -> Decision:
    """Judge one call: allowed by the first grant that covers all it touches, else denied."""
    if action.method not in METHODS:
        return Decision(False, None, f"there is no method {action.method!r}")
    for resource in _RESOURCES:
        if resource in METHODS[action.method] and not action.touches(resource):
            return Decision(False, None, f"{action.method} needs a {resource}, none was named")
    nearest: Grant | None = None
    progress, objection = -1, f"no grant names the principal {caller.principal!r}"
    for grant in policy.grants:
        passed, missing = _examine(grant, caller, action)
        if not missing:
            words = f"grant {grant.name!r} (line {grant.line}) allows it"
            return Decision(True, grant, words)
        if passed > max(progress, 0):
            nearest, progress = grant, passed
            objection = f"grant {grant.name!r} (line {grant.line}) comes nearest, but {missing}"
    return Decision(False, nearest, objection)


def _examine(grant: Grant, caller: Caller, action: Action) -> tuple[int, str]:
    """How many conditions hold before the first that does not, and that one in words or ""."""
    if caller.principal not in grant.principals:
        return 0, f"does not name the principal {caller.principal!r}"
    if action.method not in grant.methods:
        return 1, f"does not name the method {action.method}"
    for passed, resource in enumerate(_RESOURCES, start=2):
        name = action.touches(resource)
        if name and not grant.covers(resource, name):
            return passed, f"does not name the {resource} {name!r}"
    return 2 + len(_RESOURCES), ""
