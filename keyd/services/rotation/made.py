"""Keys that a rotation makes: whether the one that is there is the one that the plan says."""

from __future__ import annotations

from keyd.domain.keys import Content, Key, KeySpec, KeyState, Origin, Scheme
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import Step
from keyd.errors import PolicyViolation
from keyd.ports import View
from keyd.services.rotation.plans import plan_behind

_RSA_BITS = 3072


def spec_of(step: Step) -> KeySpec:
    """What a step has generated."""
    scheme = Scheme(step.scheme)
    return KeySpec(scheme, _RSA_BITS if scheme.is_rsa else 0)


def is_made(view: View, rotation: Rotation, step: Step) -> bool:
    """Whether the key of the step is there, as the plan says."""
    key = view.key(step.subject)
    return key is not None and not _otherwise(view, rotation, step, key)


def check_made(view: View, rotation: Rotation, step: Step) -> bool:
    """Whether the key of the step is there. Somebody else may have made one under its name.

    Raises: PolicyViolation (ROTATION_KEY_UNFIT) if it is not as the plan says.
    """
    key = view.key(step.subject)
    if key is None:
        return False
    if found := _otherwise(view, rotation, step, key):
        raise PolicyViolation(
            "ROTATION_KEY_UNFIT",
            f"key {key.name} is not what the plan says, a new {step.scheme} key made on token "
            f"{step.token}: it is {found}. Cancel {rotation.name} and plan the change with "
            "another name",
        )
    return True


def _otherwise(view: View, rotation: Rotation, step: Step, key: Key) -> str:
    """What the key is, if it is not what the step makes; "" if it is, or was bound."""
    # All keys are made before the first payload is bound. What it lists is settled then.
    steps = plan_behind(rotation).steps
    first = next((each.number for step in steps for each in step.signed), 0)
    if not rotation.state.is_open or view.rotation_file(rotation.name, first) is not None:
        return ""
    made = (key.token, KeySpec(key.scheme, key.rsa_bits), key.content, key.origin, key.state)
    if made == (step.token, spec_of(step), Content.TUF, Origin.GENERATED, KeyState.PRE_ACTIVE):
        return ""
    size = f" of {key.rsa_bits} bits" if key.rsa_bits else ""
    return (
        f"{key.state.value}, for {key.content.value}, {key.scheme.value}{size}, "
        f"{key.origin.value} on token {key.token}"
    )
