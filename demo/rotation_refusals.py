"""Changes that must not happen, each refused before anything is done."""

from __future__ import annotations

from collections.abc import Callable

from demo.rotating import Rotating
from demo.telling import Story, Unexpected, expect
from keyd_client import KeydClientError
from keyd_client.messages import NewKey, RoleChange, RotationChange, label


def show_refusals(story: Story, rotating: Rotating) -> int:
    """Print every refusal with its reason; returns how many there were."""
    count = 0
    for title, reason, change in _plans(rotating):
        findings = [f for f in rotating.client.rotations.plan(change).plan.findings if f.refuses]
        expect(reason in {f.reason for f in findings}, f"{title}: no {reason}, but {findings}")
        first = next(f for f in findings if f.reason == reason)
        story.say(f"{title}: {reason}")
        story.say(f"  {first.message}")
        count += 1
    for title, reason, call in _calls(rotating):
        try:
            call()
        except KeydClientError as refusal:
            expect(refusal.reason == reason, f"{title}: expected {reason}, got {refusal}")
            story.say(f"{title}: {reason}")
            story.say(f"  {refusal.message}")
            count += 1
        else:
            raise Unexpected(f"{title} was not refused")
    (ready,) = (r for r in rotating.client.rotations.list("demo") if label(r, "state") == "READY")
    rotating.repository.apply(ready.name)
    rotating.done += 1
    return count


_Plan = tuple[str, str, RotationChange]


def _plans(rotating: Rotating) -> list[_Plan]:
    """What is asked for, the reason that refuses it, and how one asks."""
    return [
        *_without_enough_keys(rotating),
        *_with_unfit_keys(rotating),
        ("nothing at all", "ROTATION_EMPTY", rotating.change("ROOT", [])),
        *_lowered(rotating),
    ]


def _one(rotating: Rotating, kind: str, role: str, **more: object) -> RotationChange:
    return rotating.change(kind, [RoleChange(role=role, **more)])  # type: ignore[arg-type]


def _fresh() -> list[NewKey]:
    return [NewKey(name="fresh", token="softhsm")]


def _without_enough_keys(rotating: Rotating) -> list[_Plan]:
    own = _root_keys(rotating)
    roots = [RoleChange(role="root", add=_fresh())]
    return [
        (
            "a root that thieves can sign as well",
            "ROOT_THRESHOLD_COMPROMISED",
            rotating.change("EMERGENCY", roots, compromised=own),
        ),
        (
            "a role that loses its last key",
            "NEW_THRESHOLD_UNREACHABLE",
            _one(rotating, "TIMESTAMP", "timestamp", remove=["*"]),
        ),
        (
            "a threshold above the keys",
            "NEW_THRESHOLD_UNREACHABLE",
            _one(rotating, "TARGETS", "targets", threshold=9),
        ),
        (
            "root without a spare key",
            "NO_SPARE_KEY",
            _one(rotating, "ROOT", "root", threshold=len(own) + 1),
        ),
    ]


def _with_unfit_keys(rotating: Rotating) -> list[_Plan]:
    return [
        (
            "an online key in an offline role",
            "ONLINE_KEY_IN_OFFLINE_ROLE",
            _one(rotating, "TARGETS", "targets", add=[NewKey(name="timestamp-2")]),
        ),
        (
            "a stolen key that enters again",
            "ROTATION_KEY_UNFIT",
            _one(rotating, "DELEGATED", "team", add=[NewKey(name="team-1")]),
        ),
        (
            "a key that the role does not list",
            "ROTATION_KEY_NOT_LISTED",
            _one(rotating, "TIMESTAMP", "timestamp", remove=["targets-2"], add=_fresh()),
        ),
        (
            "a key on a token that is not there",
            "ROTATION_TOKEN_UNKNOWN",
            _one(rotating, "TIMESTAMP", "timestamp", add=[NewKey(name="fresh", token="nowhere")]),
        ),
    ]


def _lowered(rotating: Rotating) -> list[_Plan]:
    plans = []
    for title, reason, role in (
        ("a lowered snapshot with its old key", "FAST_FORWARD_INCOMPLETE", "snapshot"),
        ("a lowered root", "ROOT_NOT_LOWERED", "root"),
    ):
        change = _one(rotating, "FAST_FORWARD", "timestamp", remove=["*"], add=_fresh())
        change.lower[role] = 1
        plans.append((title, reason, change))
    return plans


def _root_keys(rotating: Rotating) -> list[str]:
    root = rotating.repository.root()
    return list(root.roles["root"].keyids)[:-1]


def _calls(rotating: Rotating) -> list[tuple[str, str, Callable[[], object]]]:
    rotations = rotating.client.rotations
    change = rotating.change(
        "SNAPSHOT",
        [RoleChange(role="snapshot", remove=["*"], add=[NewKey(name="s-2", token="softhsm")])],
    )
    plan = rotations.plan(change).plan
    name = rotations.start(change, plan.digest).name

    def finish() -> None:
        rotating.go_on(name, quiet=True)
        rotations.cancel(name)

    return [
        (
            "a second rotation beside it",
            "ROTATION_OPEN",
            lambda: rotations.start(change, bytes(32)),
        ),
        ("files before their rehearsal", "ROTATION_NOT_READY", lambda: rotations.files(name)),
        (
            "publication before the rehearsal",
            "ROTATION_NOT_READY",
            lambda: rotations.confirm_published(name),
        ),
        (
            "a signature with a forged receipt",
            "ENVELOPE_MALFORMED",
            lambda: rotations.upload(name, b"{}", "0" * 64, b"x"),
        ),
        ("giving up what is trusted already", "ROTATION_ACCEPTED", finish),
        ("a rotation that never was", "ROTATION_UNKNOWN", lambda: rotations.get("r-nothing")),
    ]
