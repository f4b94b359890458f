"""Carrying a rotation out: the first step that is not done, then the next, as far as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyd.domain.keys import Content
from keyd.domain.policy import Action, Caller
from keyd.domain.records_rotation import Rotation, RotationFile, RotationState
from keyd.domain.rotation.plan import Signing, Step, StepKind, range_words
from keyd.errors import NotFound, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import View
from keyd.services.authorize import demand
from keyd.services.key_creation import generate
from keyd.services.paging import Page, paged
from keyd.services.rotation import receipts, uploads
from keyd.services.rotation.bound import bound_file
from keyd.services.rotation.confirming import root_change
from keyd.services.rotation.files import recorded_payload, signed_by
from keyd.services.rotation.holders import holders
from keyd.services.rotation.made import check_made, spec_of
from keyd.services.rotation.payloads import builder
from keyd.services.rotation.permitted import demand_rest
from keyd.services.rotation.plans import plan_behind
from keyd.services.rotation.progress import Progress, progress_of, recorded_rotation
from keyd.services.rotation.proposing import Trouble, ask_for_key, propose
from keyd.services.rotation.rehearsing import rehearse, to_publish
from keyd.services.rotation.renewing import steps_now
from keyd.services.rotation.reserving import SigningStep, StepNeedsApproval
from keyd.services.rotation.retiring import confirm
from keyd.services.rotation.signing import sign_step
from keyd.services.token_call import Deadline
from keyd.services.world import World

# What a caller needs to hear how far it came: no further bin is begun then.
_ANSWER_S = 2.0


@dataclass(frozen=True)
class Went:
    """How far a rotation came, and what was done on the way, a line each."""

    progress: Progress
    done: tuple[str, ...]


@dataclass(frozen=True)
class Receipt(receipts.ToSign):
    """Also whose signatures are wanted, by key id, and what the payload changes."""

    wanted: Mapping[str, str]
    change: tuple[str, ...]


def go_on(world: World, caller: Caller, name: str, *, timeout_s: float) -> Went:
    """Do all steps that can be done now; steps that are done are found so in the ledger.

    Raises: NotAllowed (POLICY_DENIES, LOCAL_ADMINISTRATOR_ONLY) also where the caller may not make,
    sign or lower what is left; what rules, ledger and rehearsal refuse; what was done before stays
    done.
    """
    rotation = _authorised(world, caller, "RotationService.ContinueRotation", name)
    deadline = Deadline(world.clock, timeout_s)
    done: list[str] = []
    troubles: tuple[Trouble, ...] = ()
    if rotation.state.is_open:
        demand_rest(world, caller, rotation)
        for step in _steps(world, rotation):
            finished, words, troubles = _do(world, caller, rotation, step, deadline)
            done += words
            if not finished:
                break
            rotation = world.ledger.read(lambda view: recorded_rotation(view, name))
    progress = world.ledger.read(
        lambda view: progress_of(world, view, recorded_rotation(view, name), troubles)
    )
    return Went(progress, tuple(done))


def _steps(world: World, rotation: Rotation) -> tuple[Step, ...]:
    now = world.clock.now()
    return world.ledger.read(lambda view: steps_now(view, rotation, now))


def _do(
    world: World, caller: Caller, rotation: Rotation, step: Step, deadline: Deadline
) -> tuple[bool, list[str], tuple[Trouble, ...]]:
    """Whether the step is done now, what was done for it, and what keys did not sign and why."""
    if step.kind is StepKind.GENERATE:
        return True, _generate(world, caller, rotation, step, deadline), ()
    if step.kind is StepKind.SIGN:
        return _sign(world, caller, rotation, step, deadline)
    if step.kind is StepKind.REHEARSE and rotation.state is RotationState.RUNNING:
        acts = rehearse(world, caller, rotation)
        return True, [f"rehearsed: {act}" for act in acts], ()
    # What is left, publication and retirement, is for others to begin.
    return step.kind is StepKind.REHEARSE, [], ()


def _generate(
    world: World, caller: Caller, rotation: Rotation, step: Step, deadline: Deadline
) -> list[str]:
    if world.ledger.read(lambda view: check_made(view, rotation, step)):
        return []
    made = generate(
        world,
        caller.principal,
        name=step.subject,
        token=step.token,
        spec=spec_of(step),
        content=Content.TUF,
        timeout_s=deadline.remaining_s(),
    )
    failpoint(Failpoint.ROTATION_STEP_DONE)
    return [f"made key {made.name} on token {made.token}"]


def _sign(
    world: World, caller: Caller, rotation: Rotation, step: Step, deadline: Deadline
) -> tuple[bool, list[str], tuple[Trouble, ...]]:
    """All roles of the step; of thousands of bins as many as there is time for, at least one."""
    made: list[RotationFile] = []
    troubles: tuple[Trouble, ...] = ()
    now = world.clock.now()
    for each in world.ledger.read(lambda view: _unsealed(view, rotation, step, now)):
        late = world.clock.monotonic() > deadline.end_s() - _ANSWER_S
        file, troubles = (
            (None, ()) if made and late else _sign_one(world, caller, rotation, each, deadline)
        )
        if file is None:
            return False, _signed_words(made), troubles
        made.append(file)
    return True, _signed_words(made), troubles


def _unsealed(view: View, rotation: Rotation, step: Step, now: datetime) -> list[Signing]:
    bound = ((each, bound_file(view, rotation, each.number, now)) for each in step.signed)
    return [each for each, file in bound if file is None or file.content is None]


def _sign_one(
    world: World, caller: Caller, rotation: Rotation, signing: Signing, deadline: Deadline
) -> tuple[RotationFile | None, tuple[Trouble, ...]]:
    """The sealed file, None if signatures are missing; and what keys did not sign and why."""
    role = signing.role
    lower = plan_behind(rotation).change.lower.get(role, 0)
    build = builder(world, rotation, role)
    try:
        outcome = sign_step(
            world, caller, SigningStep(rotation, signing.number, role, build, lower), deadline
        )
    except StepNeedsApproval as wanted:
        return None, (Trouble("officers", propose(world, caller, wanted)),)
    if outcome.file.content is None:
        return None, tuple(ask_for_key(world, caller, each) for each in outcome.troubles)
    failpoint(Failpoint.ROTATION_STEP_DONE)
    return outcome.file, outcome.troubles


def _signed_words(made: Sequence[RotationFile]) -> list[str]:
    if len(made) == 1:
        return [f"signed {made[0].role} {made[0].version}"]
    return [f"signed {range_words([file.role for file in made])}"] if made else []


def get(world: World, caller: Caller, name: str) -> Progress:
    """One rotation as it stands. Raises: NotFound."""
    rotation = _authorised(world, caller, "RotationService.GetRotation", name)
    return world.ledger.read(lambda view: progress_of(world, view, rotation))


def list_rotations(
    world: World, caller: Caller, repository: str, *, page_size: int, page_token: str
) -> Page[Progress]:
    """The rotations of a repository, by name."""
    demand(world, caller, Action("RotationService.ListRotations", repository))

    def work(view: View) -> Page[Progress]:
        page = paged(view.rotations(repository), _name, page_size, page_token)
        return Page(tuple(progress_of(world, view, found) for found in page.items), page.next_token)

    return world.ledger.read(work)


def receipt(world: World, caller: Caller, name: str, role: str, *, timeout_s: float) -> Receipt:
    """What is to be signed elsewhere; role "" is the one that waits. Raises: NotFound."""
    rotation = _authorised(world, caller, "RotationService.GetReceipt", name)
    wanted = role or world.ledger.read(lambda view: _waiting_role(world, view, rotation))
    issued = receipts.issue(world, rotation, wanted, timeout_s)
    whose, change = world.ledger.read(lambda view: _about(view, issued.file))
    return Receipt(issued.file, issued.payload, issued.receipt, whose, change)


def upload(
    world: World, caller: Caller, name: str, *, receipt: bytes, keyid: str, signature: bytes
) -> tuple[uploads.Uploaded, Progress]:
    """Record a signature made elsewhere. Raises: as `uploads.upload`."""
    rotation = _authorised(world, caller, "RotationService.UploadSignature", name)
    if not rotation.state.is_open:
        raise PolicyViolation("ROTATION_ENDED", f"{name} is {rotation.state.value}")
    done = uploads.upload(
        world,
        caller.principal,
        rotation,
        receipt=receipt,
        keyid=keyid,
        signature=signature,
    )
    return done, world.ledger.read(lambda view: progress_of(world, view, rotation))


def released_files(world: World, caller: Caller, name: str) -> tuple[RotationFile, ...]:
    """All files of a rehearsed rotation in the order of publication.

    Of root each version since it began, if its own was made anew.

    Raises: PolicyViolation (ROTATION_NOT_READY, ROTATION_FILES_EXPIRED).
    """
    rotation = _authorised(world, caller, "RotationService.GetFiles", name)
    if rotation.state in (RotationState.RUNNING, RotationState.CANCELLED):
        raise PolicyViolation(
            "ROTATION_NOT_READY",
            f"{name} is {rotation.state.value}: files leave only after their rehearsal",
        )
    # What is out already is renewed as everything that is published.
    if rotation.state is RotationState.READY:
        _check_fresh(world, rotation)
    return world.ledger.read(lambda view: to_publish(view, rotation))


def _check_fresh(world: World, rotation: Rotation) -> None:
    """Raises: PolicyViolation (ROTATION_FILES_EXPIRED)."""
    progress = world.ledger.read(lambda view: progress_of(world, view, rotation))
    first = next((step for step in progress.steps if not step.done), None)
    if first is not None and first.role:
        raise PolicyViolation(
            "ROTATION_FILES_EXPIRED",
            f"{first.role} of {rotation.name} has expired, or will within minutes, or somebody has "
            f"signed a newer one: keyd rotate continue {rotation.name} makes it anew, then fetch "
            "all files again",
        )


def confirm_published(world: World, caller: Caller, name: str) -> Progress:
    """The files are out: the old keys' grace time runs. Raises: PolicyViolation."""
    rotation = _authorised(world, caller, "RotationService.ConfirmPublished", name)
    confirm(world, caller, rotation)
    return world.ledger.read(lambda view: progress_of(world, view, recorded_rotation(view, name)))


def _authorised(world: World, caller: Caller, method: str, name: str) -> Rotation:
    rotation = world.ledger.read(lambda view: recorded_rotation(view, name))
    demand(world, caller, Action(method, rotation.repository))
    return rotation


def _name(rotation: Rotation) -> str:
    return rotation.name


def _waiting_role(world: World, view: View, rotation: Rotation) -> str:
    for step in progress_of(world, view, rotation).steps:
        if step.missing and step.role:
            return step.role
    raise NotFound("NOTHING_RESERVED", f"no payload of {rotation.name} waits for signatures")


def _about(view: View, file: RotationFile) -> tuple[Mapping[str, str], tuple[str, ...]]:
    reservation = view.reservation(file.repository, file.role, file.epoch, file.version)
    if reservation is None:
        return {}, ()
    made = signed_by(view, reservation)
    people = holders(view, file.repository)
    wanted = {
        keyid: people[fingerprint].holder if fingerprint in people else ""
        for keys in reservation.required
        for keyid, fingerprint in keys.fingerprints.items()
        if fingerprint not in made
    }
    payload = recorded_payload(view, file.digest)
    change = root_change(view, file.repository, file.role, payload)
    return wanted, change.lines if change else ()
