"""Random groups of work, refusals, defects and restarts against a model in a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyd.domain.merkle import Frontier
from keyd.domain.records import Reservation, ReservationState, Role
from keyd.errors import Equivocation, KeydError, NotAllowed, PolicyViolation, StateCorrupt
from keyd.ledger.anchor import load
from keyd.ports import Transaction, View
from tests.ledgers import REPOSITORY, Home, complete, digest, furnished, payload, reserve

ROLES = ("targets", "bin-0")
roles = st.sampled_from(ROLES)
versions = st.integers(1, 6)
salts = st.sampled_from(["", "x", "y"])


class Defect(Exception):
    """A bug in a piece of work."""


@dataclass
class RoleModel:
    """What must be true of one role; reservations by (epoch, version)."""

    name: str
    epoch: int = 0
    high_water: int = 0
    bound: dict[tuple[int, int], Reservation] = field(default_factory=dict)
    voided: set[tuple[int, int]] = field(default_factory=set)

    def refusal(self, version: int, salt: str) -> type[KeydError] | None:
        """How the ledger must refuse a reservation, or None."""
        held = self.bound.get((self.epoch, version))
        if held is not None:
            if held.digest != digest(payload(version, self.name, salt)):
                return Equivocation
            return None if held.state is ReservationState.RESERVED else StateCorrupt
        free = version > self.high_water or (self.epoch, version) in self.voided
        return None if free else PolicyViolation

    def take(self, made: Reservation) -> None:
        self.bound.setdefault((made.epoch, made.version), made)
        self.high_water = max(self.high_water, made.version)


@dataclass(frozen=True)
class Piece:
    """One reservation in a group, perhaps one that breaks after its writes."""

    role: str
    version: int
    salt: str
    breaks: Exception | None

    def work(self, epoch: int) -> Callable[[Transaction], Reservation]:
        def work(tx: Transaction) -> Reservation:
            made = reserve(self.version, self.role, salt=self.salt, epoch=epoch)(tx)
            if self.breaks is not None:
                raise self.breaks
            return made

        return work


pieces = st.builds(
    Piece,
    roles,
    versions,
    salts,
    st.sampled_from([None, None, None, NotAllowed("NO", "refused"), Defect("broken")]),
)


class LedgerMachine(RuleBasedStateMachine):
    """The ledger on disk beside its model."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="keyd-machine-"))
        self.ledger = furnished(self.base)
        self.roles = {name: RoleModel(name) for name in ROLES}
        self.leaves = self.ledger.unsigned_checkpoint().size

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.base)

    @rule(group=st.lists(pieces, min_size=1, max_size=6))
    def reserve_a_group(self, group: list[Piece]) -> None:
        """Later pieces see earlier ones; a refusal or defect undoes its own piece alone."""
        works = [piece.work(self.roles[piece.role].epoch) for piece in group]
        for piece, outcome in zip(group, self.ledger.transact_each(works), strict=True):
            model = self.roles[piece.role]
            refusal = model.refusal(piece.version, piece.salt)
            if refusal is not None:
                assert type(outcome) is refusal, (piece, outcome)
            elif piece.breaks is not None:
                assert outcome is piece.breaks
            else:
                assert isinstance(outcome, Reservation), (piece, outcome)
                model.take(outcome)
                self.leaves += 1

    @rule(role=roles, version=versions)
    def complete_one(self, role: str, version: int) -> None:
        model = self.roles[role]
        place = model.epoch, version
        held = model.bound.get(place)
        if held is None or held.state is ReservationState.ACCEPTED:
            return
        self.ledger.transact(complete(held))
        model.bound[place] = replace(held, state=ReservationState.ACCEPTED)
        self.leaves += 1

    @rule(role=roles, version=versions)
    def void_one(self, role: str, version: int) -> None:
        model = self.roles[role]
        place = model.epoch, version
        held = model.bound.get(place)
        if held is None or held.state is ReservationState.ACCEPTED:
            return
        voided = replace(held, state=ReservationState.VOIDED)
        self.ledger.transact(lambda tx: tx.put_reservation(voided, b""))
        del model.bound[place]
        model.voided.add(place)

    @rule(role=roles)
    def begin_an_epoch(self, role: str) -> None:
        model = self.roles[role]
        model.epoch += 1
        model.high_water = 0
        fresh = Role(REPOSITORY, role, epoch=model.epoch)
        self.ledger.transact(lambda tx: tx.put_role(fresh))

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Home(self.base).open()
        assert self.ledger.refusal() is None

    @invariant()
    def recorded_state_is_the_model(self) -> None:
        def read(view: View) -> None:
            for name, model in self.roles.items():
                found = view.role(REPOSITORY, name)
                assert (found.high_water if found else 0) == model.high_water
                for version in range(1, 7):
                    held = view.reservation(REPOSITORY, name, model.epoch, version)
                    expected = model.bound.get((model.epoch, version))
                    assert (held and (held.digest, held.state)) == (
                        expected and (expected.digest, expected.state)
                    )

        self.ledger.read(read)

    @invariant()
    def the_log_is_what_was_acknowledged(self) -> None:
        frontier = Frontier()
        for leaf in self.ledger.read(lambda view: list(view.leaves(0, 10_000))):
            frontier.append(leaf.leaf_hash)
        head = self.ledger.unsigned_checkpoint()
        assert (head.size, head.root) == (frontier.size, frontier.root())
        assert head.size == self.leaves
        anchor = load(Home(self.base).anchor)
        assert (anchor.size, anchor.root) == (head.size, head.root)


LedgerMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
