"""Signing, in the one order that never changes (architecture, ADR 0004).

parse → authorise → existing reservation? → rules → one transaction (state unchanged, reserve,
intent leaf) → token → verify in software → second transaction (signature, completion leaf) →
answer. A batch takes the same path, a wave of independent payloads at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from keyd.domain.policy import Caller
from keyd.errors import (
    ApprovalRequired,
    BackendUnavailable,
    InvalidRequest,
    KeydError,
    NotAllowed,
    PolicyViolation,
)
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import View
from keyd.services.answers import Answer, ask_tokens
from keyd.services.complete import record_signatures
from keyd.services.group_signing import Halves, SigningGroups
from keyd.services.late import Awaited, LateSignatures
from keyd.services.prepare import Prepared, prepare
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd.services.reserve import Reserved, StateMoved, reserve
from keyd.services.token_call import Deadline
from keyd.services.world import World

METHOD = "SigningService.SignMetadata"
_ROUNDS = 8
_REFUSALS = (InvalidRequest, NotAllowed, PolicyViolation, ApprovalRequired)


Outcome = Released | KeydError
Groups = SigningGroups["Ask", "Begun", Outcome]


@dataclass(frozen=True)
class Ask:
    """One payload that one caller wants signed, by `method`, before `deadline`."""

    caller: Caller
    request: SigningRequest
    deadline: Deadline
    method: str


def sign(
    world: World,
    caller: Caller,
    request: SigningRequest,
    *,
    timeout_s: float,
    groups: Groups | None = None,
) -> Released:
    """Sign one payload, or return the signature recorded for these bytes and this key.

    With `groups`, payloads that stand alone are signed together with others that come at the same
    time. Raises: InvalidRequest, NotAllowed, PolicyViolation, Equivocation, ApprovalRequired,
    NotFound, BackendUnavailable, DeadlineExceeded, SelfCheckFailed, StateCorrupt.
    """
    ask = Ask(caller, request, Deadline(world.clock, timeout_s), METHOD)
    if groups is None or not request.stands_alone():
        [outcome] = begin(world, [ask]).finish()
    else:
        outcome = groups.run(request.key, ask, size=len(request.payload), timeout_s=timeout_s)
    note_refusal(world, ask, outcome)
    if isinstance(outcome, KeydError):
        raise outcome
    return outcome


def signing_groups(world: World) -> Groups:
    """Groups for `sign`."""
    return SigningGroups(Halves(partial(begin, world), Begun.finish))


@dataclass(frozen=True)
class Begun:
    """Requests on their way; `reserved` is what waits for the token."""

    batch: Batch
    reserved: Mapping[int, Reserved]

    def finish(self) -> list[Outcome]:
        """One result for each request, in order."""
        self.batch.finish(self.reserved)
        return self.batch.settled()


def begin(world: World, asks: Sequence[Ask]) -> Begun:
    """Judge and reserve what does not depend on one another; otherwise do all there is to do."""
    batch = Batch(world, asks)
    parts = list(_waves([ask.request for ask in asks]))
    if len(parts) == 1:
        reserved, again = batch.reserve(parts[0])
        batch.run(again)
        return Begun(batch, reserved)
    for part in parts:
        batch.run(part)
    return Begun(batch, {})


def note_refusal(world: World, ask: Ask, outcome: Outcome) -> None:
    """Put on record that a caller was refused."""
    if isinstance(outcome, _REFUSALS):
        world.denials.record(ask.caller, ask.method, outcome, ask.request.subject())


class Batch:
    """What is asked together, what became of each, and what they share."""

    def __init__(self, world: World, asks: Sequence[Ask]) -> None:
        self.world = world
        self.asks = asks
        self.outcomes: list[Outcome | None] = [None] * len(asks)

    def run(self, wave: Sequence[int]) -> None:
        """Take every request of the wave to its outcome; those whose evidence moved go again."""
        waiting = list(wave)
        for _ in range(_ROUNDS):
            if not waiting:
                return
            waiting = self._round(waiting)
        for place in waiting:
            self.outcomes[place] = BackendUnavailable(
                "ROLE_BUSY",
                "the role's recorded state kept changing while this payload was judged; "
                "send the same request again",
                retry_after_s=0.1,
            )

    def settled(self) -> list[Outcome]:
        """What became of each, once every wave has run."""
        return [_settled(outcome) for outcome in self.outcomes]

    def _round(self, waiting: list[int]) -> list[int]:
        reserved, again = self.reserve(waiting)
        self.finish(reserved)
        return again

    def reserve(self, waiting: Sequence[int]) -> tuple[dict[int, Reserved], list[int]]:
        """Judge and reserve; also the places of those whose evidence moved meanwhile."""
        return self._reserve(self._prepare(waiting))

    def finish(self, reserved: Mapping[int, Reserved]) -> None:
        """From the durable reservation to the durable, verified signature."""
        if not reserved:
            return
        failpoint(Failpoint.SIGN_AFTER_RESERVE)
        # Who waits longest sets the pace: for the others a late signature is recorded all the same.
        deadline = max((self.asks[place].deadline for place in reserved), key=Deadline.end_s)
        late = LateSignatures(self.world, [_awaited(self.world, r) for r in reserved.values()])
        answers = ask_tokens(self.world, list(reserved.values()), deadline, late.arrived)
        outcomes = record_signatures(self.world, answers)
        late.take_up()
        failpoint(Failpoint.SIGN_BEFORE_ANSWER)
        for place, outcome in zip(reserved, outcomes, strict=True):
            self.outcomes[place] = outcome

    def _prepare(self, waiting: Sequence[int]) -> dict[int, Prepared]:
        """Judge each request on one snapshot of the ledger; settle the replayed and refused."""
        asks = [self.asks[place] for place in waiting]

        def prepare_all(view: View) -> list[Prepared | Outcome]:
            if len(asks) > 1:
                _announce(view, asks)
            return [self._prepare_one(view, ask) for ask in asks]

        found = self.world.ledger.read(prepare_all)
        ready: dict[int, Prepared] = {}
        for place, result in zip(waiting, found, strict=True):
            if isinstance(result, Prepared):
                ready[place] = result
            else:
                self.outcomes[place] = result
        return ready

    def _prepare_one(self, view: View, ask: Ask) -> Prepared | Outcome:
        return prepare(self.world, view, ask.caller, ask.request, ask.method)

    def _reserve(self, prepared: dict[int, Prepared]) -> tuple[dict[int, Reserved], list[int]]:
        results = self.world.ledger.transact_each(
            [reserve(self.world, item) for item in prepared.values()]
        )
        reserved: dict[int, Reserved] = {}
        again: list[int] = []
        for place, result in zip(prepared, results, strict=True):
            if isinstance(result, StateMoved):
                again.append(place)
            elif isinstance(result, Reserved):
                reserved[place] = result
            elif isinstance(result, KeydError):
                self.outcomes[place] = result
            else:
                raise result
        return reserved, again


def _awaited(world: World, reserved: Reserved) -> Awaited:
    def record(answer: bytes | KeydError) -> Outcome:
        [outcome] = record_signatures(world, [Answer(reserved, answer)])
        return outcome

    return Awaited(reserved.prepared.key, reserved.prepared.payload.raw, record)


def _announce(view: View, asks: Sequence[Ask]) -> None:
    """Have read together what every payload of a group will ask for by itself."""
    named = [(ask.caller.principal, ask.request) for ask in asks]
    view.expect(
        [(each.repository, each.role) for _, each in named],
        [(principal, each.request_id) for principal, each in named if each.request_id],
    )


def _waves(requests: Sequence[SigningRequest]) -> Iterator[list[int]]:
    """Runs of requests that cannot depend on one another, in order.

    Payloads without delegations for different delegated roles refer to nothing that another such
    payload creates. All others wait for what stands before them: of one role, the second for the
    first; of any other kind, alone.
    """
    wave: list[int] = []
    roles: set[tuple[str, str]] = set()
    for place, request in enumerate(requests):
        role = (request.repository, request.role)
        if wave and (role in roles or not request.stands_alone()):
            yield wave
            wave, roles = [], set()
        if request.stands_alone():
            wave.append(place)
            roles.add(role)
        else:
            yield [place]
    if wave:
        yield wave


def _settled(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        raise AssertionError("a request of the batch was never taken up")
    return outcome
