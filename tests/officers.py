"""Officers with keys in this process, and the ways in which they decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ed25519

from keyd.domain.approval import Basis, Decision, Statement, sealed
from keyd.domain.keys import Scheme
from keyd.domain.officers import Officer, OfficerKey, OfficerKeyKind
from keyd.domain.operations import Operation
from keyd.domain.policy import Caller
from keyd.services import proposals
from keyd.services.officers import enrol_first
from keyd.services.proposals import Shown
from keyd.services.world import World
from tests.fakes import public_der
from tests.worlds import ADMIN, TIMEOUT_S

LIFETIME_S = 3600


@dataclass(frozen=True)
class Person:
    """Somebody with a key that approves."""

    name: str
    private: ed25519.Ed25519PrivateKey
    groups: frozenset[str] = frozenset()
    principals: frozenset[str] = frozenset()

    @property
    def key(self) -> OfficerKey:
        return OfficerKey(Scheme.ED25519, public_der(self.private), OfficerKeyKind.PKCS11)

    @property
    def officer(self) -> Officer:
        return Officer(self.name, self.groups, self.principals, (self.key,))

    def envelope(self, basis: Basis, decision: Decision = Decision.APPROVE) -> bytes:
        """This person's signed decision."""
        statement = Statement(self.name, decision, basis)
        return sealed(statement, self.key, self.private.sign(statement.to_be_signed()))

    def with_new_key(self) -> Person:
        return replace(self, private=ed25519.Ed25519PrivateKey.generate())


def person(name: str, *groups: str, principals: Iterable[str] = ()) -> Person:
    """A person with a fresh key."""
    key = ed25519.Ed25519PrivateKey.generate()
    return Person(name, key, frozenset(groups), frozenset(principals))


def basis_of(shown: Shown) -> Basis:
    """What an approval of the proposal has to rest on."""
    return shown.proposal.basis(shown.daemon)


def enrol(world: World, *people: Person, threshold: int = 2) -> None:
    """Make them the first officers."""
    enrol_first(world, ADMIN, [each.officer for each in people], threshold)


def propose(
    world: World, operation: Operation, payload: bytes = b"", caller: Caller = ADMIN
) -> Shown:
    """Propose an operation for an hour."""
    return proposals.create(world, caller, operation, payload, LIFETIME_S)


def approve(world: World, shown: Shown, *people: Person) -> Shown:
    """Let people approve, one after the other."""
    for each in people:
        shown = proposals.decide(world, ADMIN, shown.proposal.name, each.envelope(basis_of(shown)))
    return shown


def reject(world: World, shown: Shown, who: Person) -> Shown:
    """Let somebody reject."""
    envelope = who.envelope(basis_of(shown), Decision.REJECT)
    return proposals.decide(world, ADMIN, shown.proposal.name, envelope)


def carry_out(world: World, operation: Operation, *people: Person, payload: bytes = b"") -> Shown:
    """Propose, approve, execute."""
    shown = approve(world, propose(world, operation, payload), *people)
    return execute(world, ADMIN, shown.proposal.name)


def execute(world: World, caller: Caller, name: str) -> Shown:
    """Execute a proposal; its token has plenty of time."""
    return proposals.execute(world, caller, name, timeout_s=TIMEOUT_S)
