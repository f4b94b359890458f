"""Operations that officers decide on, each with the exact bytes that an approval is bound to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, get_args

from keyd.domain import canonical
from keyd.domain.names import check_named
from keyd.domain.officers import Officer, check_names, officer_json, officer_of
from keyd.domain.policy import Action
from keyd.domain.rule_levels import rules_of_text, rules_text
from keyd.domain.trust import RoleRules
from keyd.errors import InvalidRequest


@dataclass(frozen=True)
class SignMetadata:
    """Let one payload be signed for one version of a role, by any key that the role lists."""

    kind: ClassVar[str] = "sign_metadata"
    repository: str
    role: str
    epoch: int
    version: int
    payload_sha256: str

    def words(self) -> str:
        """What happens, in a line."""
        return f"sign {self.repository}/{self.role} version {self.version}"


@dataclass(frozen=True)
class CreateKey:
    """Make a key pair on a token; `rsa_bits` is 0 for schemes that have no size to choose."""

    kind: ClassVar[str] = "create_key"
    key: str
    token: str
    scheme: str
    rsa_bits: int
    content: str

    def words(self) -> str:
        """What happens, in a line."""
        size = f" of {self.rsa_bits} bits" if self.rsa_bits else ""
        return (
            f"create key {self.key} on token {self.token}: {self.scheme}{size}, "
            f"for {self.content} content"
        )


@dataclass(frozen=True)
class SignOpaque:
    """Let one key sign bytes that keyd does not understand, once."""

    kind: ClassVar[str] = "sign_opaque"
    key: str
    key_sha256: str
    data_sha256: str

    def words(self) -> str:
        """What happens, in a line."""
        return f"sign opaque bytes with SHA-256 {self.data_sha256} by key {self.key}"


@dataclass(frozen=True)
class ChangeKeyState:
    """Take a key from one life state to another (`keyd.domain.keys.KeyState`)."""

    kind: ClassVar[str] = "change_key_state"
    key: str
    key_sha256: str
    before: str
    after: str

    def words(self) -> str:
        """What happens, in a line."""
        return f"take key {self.key} ({self.key_sha256[:16]}) from {self.before} to {self.after}"


@dataclass(frozen=True)
class SetRoleRules:
    """Set the rule levels of a role; `rules` is their canonical JSON."""

    kind: ClassVar[str] = "set_role_rules"
    repository: str
    role: str
    rules: str

    @property
    def levels(self) -> RoleRules:
        """The rule levels. Raises: InvalidRequest (OPERATION_MALFORMED)."""
        try:
            levels = rules_of_text(self.rules)
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed("the rule levels cannot be read") from error
        if rules_text(levels) != self.rules:
            raise _malformed("the rule levels are not in canonical form")
        return levels

    def words(self) -> str:
        """What happens, in a line."""
        return f"set the rules of {self.repository}/{self.role} to {self.rules}"


@dataclass(frozen=True)
class VoidReservation:
    """Let a version that is bound to a payload, below every threshold, have another one.

    `elsewhere` counts the listed keys that no token here holds, or that are compromised, and that
    together with the known signatures could have reached a threshold, 0 if they could not: what
    they made is not recorded here, and only their holders know of it.
    """

    kind: ClassVar[str] = "void_reservation"
    repository: str
    role: str
    epoch: int
    version: int
    payload_sha256: str
    elsewhere: int

    def words(self) -> str:
        """What happens, in a line."""
        noun = "key" if self.elsewhere == 1 else "keys"
        unseen = (
            f"; {self.elsewhere} {noun} held elsewhere or stolen may have signed it: approve "
            "only if every holder said that they did not, and never will"
        )
        return (
            f"void {self.repository}/{self.role} version {self.version}, "
            f"bound to payload {self.payload_sha256[:16]}{unseen if self.elsewhere else ''}"
        )


@dataclass(frozen=True)
class AcceptPolicy:
    """Let a policy file hold although it permits more; `revision` is its SHA-256 in hex."""

    kind: ClassVar[str] = "accept_policy"
    revision: str

    def words(self) -> str:
        """What happens, in a line."""
        return f"accept the policy file with SHA-256 {self.revision}"


@dataclass(frozen=True)
class ChangeOfficer:
    """Enrol an officer, give one other keys, or revoke one: `officer` is the person afterwards.

    `before` is the SHA-256 of the officer as they are now, "" for a new one.
    """

    kind: ClassVar[str] = "change_officer"
    officer: str
    before: str

    @classmethod
    def to(cls, officer: Officer, before: Officer | None) -> ChangeOfficer:
        """The operation that makes an officer what is given."""
        return cls(officer_text(officer), officer_digest(before) if before else "")

    @property
    def person(self) -> Officer:
        """The officer afterwards. Raises: InvalidRequest (OPERATION_MALFORMED)."""
        try:
            return officer_of(json.loads(self.officer))
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed("the officer cannot be read") from error

    def words(self) -> str:
        """What happens, in a line."""
        person = self.person
        keys = ", ".join(
            f"{k.fingerprint[:16]} {k.kind.value} {k.state.value}" for k in person.keys
        )
        groups = ", ".join(sorted(person.groups)) or "no group"
        verb = "change" if self.before else "enrol"
        return f"{verb} officer {person.name}: {person.state.value}, {groups}, keys {keys}"


@dataclass(frozen=True)
class SucceedOfficer:
    """Revoke an officer and enrol another person in their place, in one approval.

    `officer` is who leaves, afterwards, and `before` the SHA-256 of them as they are now;
    `successor` is the new person.
    """

    kind: ClassVar[str] = "succeed_officer"
    officer: str
    before: str
    successor: str

    @property
    def changes(self) -> tuple[ChangeOfficer, ChangeOfficer]:
        """The enrolment and the revocation that it consists of."""
        return ChangeOfficer(self.successor, ""), ChangeOfficer(self.officer, self.before)

    def words(self) -> str:
        """What happens, in a line."""
        return " and ".join(each.words() for each in self.changes)


@dataclass(frozen=True)
class SetBaseRule:
    """Set how many officers every loosening needs."""

    kind: ClassVar[str] = "set_base_rule"
    threshold: int

    def words(self) -> str:
        """What happens, in a line."""
        return f"set the base rule to {self.threshold} officers"


@dataclass(frozen=True)
class StartRotation:
    """Begin a rotation by its plan."""

    kind: ClassVar[str] = "start_rotation"
    repository: str
    plan_sha256: str

    def words(self) -> str:
        """What happens, in a line."""
        return f"start the rotation of {self.repository} with plan {self.plan_sha256}"


@dataclass(frozen=True)
class UseCompromisedKey:
    """Let a key that is marked compromised sign one root payload, and nothing else.

    The way out when lost keys leave too few others; `key_sha256` is the key's fingerprint.
    """

    kind: ClassVar[str] = "use_compromised_key"
    repository: str
    key: str
    key_sha256: str
    payload_sha256: str

    def words(self) -> str:
        """What happens, in a line."""
        return (
            f"let compromised key {self.key} ({self.key_sha256[:16]}) sign the root payload "
            f"{self.payload_sha256[:16]} of {self.repository}"
        )


Operation = (
    SignMetadata
    | CreateKey
    | SignOpaque
    | ChangeKeyState
    | SetRoleRules
    | VoidReservation
    | AcceptPolicy
    | ChangeOfficer
    | SucceedOfficer
    | SetBaseRule
    | StartRotation
    | UseCompromisedKey
)
_KINDS: dict[str, type[Operation]] = {kind.kind: kind for kind in get_args(Operation)}
_STATE_METHODS = {
    "ACTIVE": "KeyService.ResumeKey",
    "SUSPENDED": "KeyService.SuspendKey",
    "DEACTIVATED": "KeyService.DeactivateKey",
    "COMPROMISED": "KeyService.MarkKeyCompromised",
    "DESTROYED": "KeyService.DestroyKey",
}
# The calls that officers can be asked about: what a quorum rule of the policy may name.
CALLS = frozenset(
    {
        *_STATE_METHODS.values(),
        "SigningService.SignMetadata",
        "SigningService.SignOpaque",
        "KeyService.CreateKey",
        "RepositoryService.SetRoleRules",
        "RepositoryService.VoidReservation",
        "RotationService.StartRotation",
        "OfficerService.AcceptPolicy",
        "OfficerService.ChangeOfficers",
    }
)
MAX_BYTES = 256 * 1024


def encode(operation: Operation) -> bytes:
    """Canonical JSON with a member `kind`: what proposals keep and approvals are bound to."""
    return canonical.encode({"kind": operation.kind, **asdict(operation)})


def digest(operation: Operation) -> str:
    """SHA-256 (hex) of `encode`."""
    return hashlib.sha256(encode(operation)).hexdigest()


def decode(data: bytes) -> Operation:
    """The inverse of `encode`. Raises: InvalidRequest (OPERATION_MALFORMED)."""
    if len(data) > MAX_BYTES:
        raise _malformed(f"it has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data)
        members: dict[str, Any] = {name: document[name] for name in document if name != "kind"}
        kind = _KINDS[document["kind"]]
        wanted = {each.name: each.type for each in fields(kind)}
        if {name: type(value).__name__ for name, value in members.items()} != wanted:
            raise _malformed(f"{kind.kind} has exactly the members {', '.join(sorted(wanted))}")
        operation = kind(**members)
        _check_members(operation)
        canonical_form = encode(operation)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _malformed("it is no operation that this keyd knows") from error
    if canonical_form != data:
        raise _malformed("it is not in canonical form")
    return operation


def _check_members(operation: Operation) -> None:
    """Refuse what is text here and cannot be read where it is shown or done."""
    check_named(operation)
    if isinstance(operation, ChangeKeyState) and operation.after not in _STATE_METHODS:
        raise _malformed(f"no operation takes a key to the state {operation.after!r}")
    if isinstance(operation, SetRoleRules):
        _ = operation.levels
    if isinstance(operation, ChangeOfficer):
        _check_person(operation)
    if isinstance(operation, SucceedOfficer):
        for each in operation.changes:
            _check_person(each)


def _check_person(operation: ChangeOfficer) -> None:
    """Officers are asked about nobody whom they could take for somebody else."""
    person = operation.person
    texts = (person.name, *person.groups, *person.principals)
    if not all(isinstance(text, str) for text in texts):
        raise _malformed("names of officers, groups and principals are strings")
    check_names(person)
    if officer_text(person) != operation.officer:
        raise _malformed("the officer is not in canonical form")


def action(operation: Operation) -> Action:
    """The call that the operation stands for: what grants and quorum rules are matched with."""
    if isinstance(operation, SignMetadata):
        return Action("SigningService.SignMetadata", operation.repository, operation.role)
    if isinstance(operation, CreateKey):
        return Action("KeyService.CreateKey", key=operation.key, token=operation.token)
    if isinstance(operation, SignOpaque):
        return Action("SigningService.SignOpaque", key=operation.key)
    if isinstance(operation, ChangeKeyState):
        return Action(_STATE_METHODS[operation.after], key=operation.key)
    if isinstance(operation, UseCompromisedKey):
        return Action("SigningService.SignMetadata", operation.repository, "root", operation.key)
    if isinstance(operation, SetRoleRules):
        return Action("RepositoryService.SetRoleRules", operation.repository, operation.role)
    if isinstance(operation, VoidReservation):
        return Action("RepositoryService.VoidReservation", operation.repository, operation.role)
    if isinstance(operation, StartRotation):
        return Action("RotationService.StartRotation", operation.repository)
    if isinstance(operation, AcceptPolicy):
        return Action("OfficerService.AcceptPolicy")
    return Action("OfficerService.ChangeOfficers")


def proposal_action(method: str, operation: Operation) -> Action:
    """A call of ProposalService about a proposal of the operation: it touches what that touches."""
    return replace(action(operation), method=method)


def concerned(operation: Operation) -> frozenset[str]:
    """Officers who neither count nor block: whom the operation is about."""
    if isinstance(operation, SucceedOfficer):
        return frozenset(each.person.name for each in operation.changes)
    return (
        frozenset({operation.person.name}) if isinstance(operation, ChangeOfficer) else frozenset()
    )


def officer_digest(officer: Officer) -> str:
    """SHA-256 (hex) of an officer as the ledger knows them."""
    return hashlib.sha256(officer_text(officer).encode()).hexdigest()


def officer_text(officer: Officer) -> str:
    """An officer as canonical JSON."""
    return canonical.encode(officer_json(officer)).decode()


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest("OPERATION_MALFORMED", f"the operation cannot be read: {why}")
