"""Where a rotation is: derived from the ledger every time, never remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.domain.records_rotation import Rotation, RotationFile, RotationState
from keyd.domain.rotation.plan import Signing, Step, StepKind
from keyd.errors import NotFound
from keyd.ports import View
from keyd.services.evidence import mark, role_or_new
from keyd.services.rotation.bound import is_bound
from keyd.services.rotation.holders import facts_of, holders
from keyd.services.rotation.made import is_made
from keyd.services.rotation.plans import plan_behind
from keyd.services.rotation.proposing import Trouble, asked_for
from keyd.services.rotation.renewing import steps_now
from keyd.services.rotation.retiring import retire_time
from keyd.services.rotation.signing import standing_words
from keyd.services.world import World


@dataclass(frozen=True)
class StepProgress:
    """One step of the plan; `version` is 0 until one is bound for it, `missing` in words.

    Of bins `role` and what follows are those of the first that is not signed, "" and 0 after that.
    """

    number: int
    text: str
    done: bool
    role: str = ""
    version: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """A rotation and its steps.

    `waiting` tells whether only somebody else can bring it further: signatures made elsewhere, or
    approvals of `proposals`.
    """

    rotation: Rotation
    steps: tuple[StepProgress, ...]
    waiting: bool
    next: str
    proposals: tuple[str, ...] = ()
    retire_time: datetime | None = None


def recorded_rotation(view: View, name: str) -> Rotation:
    """A rotation by name. Raises: NotFound."""
    found = view.rotation(name)
    if found is None:
        raise NotFound(
            "ROTATION_UNKNOWN", f"there is no rotation {name!r}: keyd rotate status lists all"
        )
    return found


def progress_of(
    world: World, view: View, rotation: Rotation, troubles: tuple[Trouble, ...] = ()
) -> Progress:
    """Every step as it stands; `troubles` are why keys here did not sign just now."""
    now = world.clock.now()
    todo = steps_now(view, rotation, now)
    name = _namer(view, rotation)
    files = _bound(view, rotation, now)
    steps = tuple(_step(view, rotation, step, files, name) for step in todo)
    first = next((step for step in steps if not step.done), None)
    # Also of a released set, of which something has expired, or was signed by somebody else.
    waiting = rotation.state.is_open and first is not None and bool(first.missing)
    asked: tuple[str, ...] = ()
    if first is not None and first.role and rotation.state.is_open:
        begun = next(step for step in todo if step.number == first.number)
        signing = next(each for each in begun.signed if each.role == first.role)
        asked = tuple(_asked(world, view, rotation, signing, files.get(signing.number)))
    return Progress(
        rotation=rotation,
        steps=steps,
        waiting=waiting or bool(asked),
        next=_next(rotation, first, troubles),
        proposals=asked,
        retire_time=retire_time(rotation),
    )


def _bound(view: View, rotation: Rotation, now: datetime) -> Mapping[int, RotationFile]:
    """By the number of the step, until the end only what its step is still bound to."""
    ended = not rotation.state.is_open
    files = view.rotation_files(rotation.name)
    return {file.step: file for file in files if ended or is_bound(view, file, now)}


def _asked(
    world: World, view: View, rotation: Rotation, signing: Signing, file: RotationFile | None
) -> Iterator[str]:
    """The proposals that a step waits for: of the version that it is bound to, or will be."""
    role = role_or_new(view, rotation.repository, signing.role)
    lower = plan_behind(rotation).change.lower.get(role.name, 0)
    version = mark(view, role) + 1
    if file is not None:
        version = file.version
    elif lower and view.rotation_file(rotation.name, signing.number) is None:
        role, version = replace(role, epoch=role.epoch + 1), lower
    return asked_for(world, view, role, version, file.digest if file is not None else "")


def _step(
    view: View,
    rotation: Rotation,
    step: Step,
    files: Mapping[int, RotationFile],
    name: Callable[[str], str],
) -> StepProgress:
    if step.kind is not StepKind.SIGN:
        return StepProgress(step.number, step.text, _is_done(view, rotation, step))
    parts = [
        _signing(
            *(view, rotation, StepProgress(step.number, step.text, False, each.role)),
            files.get(each.number),
            name,
        )
        for each in step.signed
    ]
    if not step.bins:
        return parts[0]
    first = next((part for part in parts if not part.done), None)
    if first is None:
        return StepProgress(step.number, step.text, done=True)
    text = f"{step.text} ({sum(part.done for part in parts)} are signed)"
    return replace(first, number=step.number, text=text)


def _signing(
    view: View,
    rotation: Rotation,
    begun: StepProgress,
    file: RotationFile | None,
    name: Callable[[str], str],
) -> StepProgress:
    if file is None:
        return begun
    ended = not rotation.state.is_open
    done = file.content is not None
    missing = () if done or ended else standing_words(view, file, name)
    return replace(begun, done=done, version=file.version, missing=missing)


def _is_done(view: View, rotation: Rotation, step: Step) -> bool:
    if step.kind is StepKind.GENERATE:
        return is_made(view, rotation, step)
    if step.kind is StepKind.REHEARSE:
        return rotation.state in (RotationState.READY, RotationState.RETIRING, RotationState.DONE)
    if step.kind is StepKind.PUBLISH:
        return rotation.state in (RotationState.RETIRING, RotationState.DONE)
    return rotation.state is RotationState.DONE


def _next(rotation: Rotation, first: StepProgress | None, troubles: tuple[Trouble, ...]) -> str:
    if rotation.state is RotationState.READY and first is not None and first.role:
        why = "; ".join(map(str, troubles)) or "it has expired, or was signed by somebody else"
        return f"sign {first.role} anew, with keyd rotate continue: {why}"
    if rotation.state is RotationState.READY:
        return "publish its files: KeydRepository.apply, or keyd rotate files"
    if rotation.state is RotationState.RETIRING:
        return "the old keys are deactivated when their grace time is over"
    if first is None or rotation.state is not RotationState.RUNNING:
        return ""
    why = "; ".join([*first.missing, *map(str, troubles)])
    return f"{first.text}: {why}" if why else first.text


def _namer(view: View, rotation: Rotation) -> Callable[[str], str]:
    """What a key is called: its name here, or a label and who holds it."""
    known = dict(holders(view, rotation.repository))
    for change in plan_behind(rotation).change.changes:
        for key in change.add:
            if key.holder:
                facts = facts_of(key)
                known[facts.fingerprint] = facts

    def name(fingerprint: str) -> str:
        key = view.key_by_fingerprint(fingerprint)
        if key is not None:
            return key.name
        held = known.get(fingerprint)
        return f"{held.label} ({held.holder})" if held else f"key {fingerprint[:12]} (elsewhere)"

    return name
