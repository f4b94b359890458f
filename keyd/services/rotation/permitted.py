"""What a rotation has the daemon do, as the calls that somebody would have to make for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from keyd.domain.policy import Action, Caller
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import Plan, StepKind
from keyd.ports import View
from keyd.services.authorize import demand, demand_administrator
from keyd.services.evidence import sets_now
from keyd.services.rotation.bound import is_bound
from keyd.services.rotation.plans import plan_behind
from keyd.services.rotation.renewing import renewed, steps_now
from keyd.services.world import World


def demand_all(world: World, caller: Caller, plan: Plan) -> None:
    """Whoever starts a plan could make its keys and signatures without it as well.

    To lower versions takes the local administrator while there are no officers to agree.
    Raises: NotAllowed (POLICY_DENIES, LOCAL_ADMINISTRATOR_ONLY).
    """
    if world.ledger.read(lambda view: _lowers_alone(view, plan, ())):
        _demand_lowering(world, caller, "RotationService.StartRotation", plan)
    _demand(world, caller, world.ledger.read(lambda view: set(_calls(view, plan, ()))))


def demand_rest(world: World, caller: Caller, rotation: Rotation) -> None:
    """As `demand_all`, for what is not done yet.

    Raises: NotAllowed (POLICY_DENIES, LOCAL_ADMINISTRATOR_ONLY).
    """

    def lowers(view: View) -> bool:
        bound = {file.step for file in view.rotation_files(rotation.name)}
        return _lowers_alone(view, plan_behind(rotation), bound)

    # Whoever started it: the new epoch begins in this call.
    if world.ledger.read(lowers):
        _demand_lowering(world, caller, "RotationService.ContinueRotation", plan_behind(rotation))

    now = world.clock.now()

    def calls(view: View) -> set[Action]:
        done = _sealed(view, rotation, now)
        planned = _calls(view, plan_behind(rotation), done)
        return {*planned, *_renewals(view, rotation, now, done)}

    _demand(world, caller, world.ledger.read(calls))


def _demand(world: World, caller: Caller, calls: Collection[Action]) -> None:
    # Outside of the ledger's reading: a denial is put on record there.
    for action in sorted(calls, key=lambda each: (each.method, each.role, each.key)):
        demand(world, caller, action)


def _demand_lowering(world: World, caller: Caller, method: str, plan: Plan) -> None:
    what = "a fast-forward recovery while no officers are enrolled"
    demand_administrator(world, caller, Action(method, plan.change.repository), what)


def _lowers_alone(view: View, plan: Plan, bound: Collection[int]) -> bool:
    """Whether steps that are not `bound` yet lower versions, with nobody else asked."""
    return not view.base_threshold() and any(
        signing.role in plan.change.lower and signing.number not in bound
        for step in plan.steps
        for signing in step.signed
    )


def _calls(view: View, plan: Plan, done: Collection[int]) -> Iterator[Action]:
    """Keys that other people hold are no names of keys here: nothing is signed with them."""
    made = {step.subject: step for step in plan.steps if step.kind is StepKind.GENERATE}
    for step in made.values():
        if view.key(step.subject) is None:
            yield Action("KeyService.CreateKey", key=step.subject, token=step.token)
    steps = plan.numbered
    for need in plan.needs:
        keys = [key for key in need.keys if key in made or view.key(key) is not None]
        for signing in steps[need.step].signed:
            if signing.number not in done:
                for key in keys:
                    role = signing.role
                    yield Action("SigningService.SignMetadata", plan.change.repository, role, key)


def _renewals(
    view: View, rotation: Rotation, now: datetime, done: Collection[int]
) -> Iterator[Action]:
    """What no plan says: the keys are those that are listed now, for they do not change."""
    for step in renewed(steps_now(view, rotation, now), rotation):
        lists = sets_now(view, rotation.repository, step.subject)
        listed = {fingerprint for keys in lists for fingerprint in keys.fingerprints.values()}
        for key in filter(None, map(view.key_by_fingerprint, listed)):
            if step.number not in done:
                yield Action(
                    "SigningService.SignMetadata", rotation.repository, step.subject, key.name
                )


def _sealed(view: View, rotation: Rotation, now: datetime) -> set[int]:
    files = view.rotation_files(rotation.name)
    return {file.step for file in files if file.content is not None and is_bound(view, file, now)}
