"""`KeydRepository.apply` of recoveries: what a thief published goes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.ngclient import Updater

from keyd_client import errors, store
from keyd_client.api.rotations import Rotations
from keyd_protos.v1.signing_pb2 import SignMetadataRequest
from tests.published import Published
from tests.unit.sdk.scene import (
    BEFORE,
    LISTED,
    NEW_ROOT,
    SNAPSHOT,
    File,
    Scene,
    refuses,
    root,
    snapshot,
    targets,
    timestamp,
)

NEXT = targets(4)


def recovery(**more: int) -> list[File]:
    """Targets that were driven up go on from version 3."""
    version = more.get("snapshot", 4)
    content = snapshot(version, {**LISTED, "targets": (4, NEXT)}, "snapshot-new")
    return [
        ("targets", 4, NEXT),
        ("snapshot", version, content),
        ("root", 3, NEW_ROOT),
        ("timestamp", 4, timestamp(4, version, content, "timestamp-new")),
    ]


def drive_up(scene: Scene) -> None:
    """A thief's targets, published from here."""
    high = targets(900)
    content = snapshot(3, {**LISTED, "targets": (900, high)})
    scene.publish(("targets", 900, high), ("snapshot", 3, content))
    scene.publish(("timestamp", 3, timestamp(3, 3, content)))


def test_a_recovery_goes_down_where_its_caller_says_so(scene: Scene) -> None:
    drive_up(scene)
    refuses(scene, "ROTATION_OVERTAKEN", *recovery(), kind="FAST_FORWARD")
    refuses(scene, "ROOT_NOT_LOWERED", *recovery(), lower={"root": 1})
    refuses(scene, "ROLE_UNKNOWN", *recovery(), lower={"targets": 4, "target": 4})
    scene.apply(lower={"targets": 4})
    assert scene.files["4.targets.json"] == NEXT
    assert "900.targets.json" not in scene.files
    scene.apply(lower={"targets": 4})
    assert scene.confirmed == ["r-1", "r-1"]


def test_a_recovery_is_what_a_client_with_its_root_alone_takes(scene: Scene) -> None:
    """Its parts are signed well; they do not fit each other."""
    drive_up(scene)
    lower = {"targets": 4}
    files = recovery()
    other: File = ("targets", 4, targets(4, "another"))
    refuses(scene, "ROTATION_UNFIT", other, *files[1:], lower=lower)
    refuses(scene, "ROTATION_UNFIT", *files[1:], lower=lower)
    refuses(scene, "ROTATION_UNFIT", files[0], *files[2:], lower=lower)


def visit(scene: Scene, home: Path) -> int:
    """A stock client looks for a target; returns its version of targets."""
    client = Updater(
        str(home), "http://none.invalid/", fetcher=Published(scene.files), bootstrap=BEFORE[0][2]
    )
    client.refresh()
    return client._trusted_set.targets.version


def overwrite(scene: Scene) -> None:
    """A thief's targets 4, published from here, and then one that is higher than any other."""
    drive_up(scene)
    scene.publish(("targets", 4, targets(4, "a thief's")))


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Until this ends, publishing dies before the step after so many names, removals and words."""
    done = 0

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def act_or_die(path: Any, *rest: Any, **more: Any) -> Any:
            nonlocal done
            if act is not unlink or not path.name.startswith(".keyd-"):
                if done == step:
                    raise SystemExit("killed")
                done += 1
            return act(path, *rest, **more)

        return act_or_die

    unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(store, "_name", dying(store._name))
        patch.setattr(Path, "unlink", dying(unlink))
        patch.setattr(Rotations, "confirm_published", dying(Rotations.confirm_published))
        yield


@pytest.mark.parametrize("cut", range(6))
def test_a_recovery_replaces_what_a_thief_published_under_its_number(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Killed at each of six steps, and repeated: clients go on."""
    overwrite(scene)
    assert visit(scene, tmp_path / "client") == 900
    scene.release(*recovery(), kind="FAST_FORWARD")
    with killed_at(cut, monkeypatch), pytest.raises(SystemExit):
        scene.apply(lower={"targets": 4})
    # Whoever comes meanwhile keeps what it has.
    with suppress(RepositoryError):
        assert visit(scene, tmp_path / "client") == (4 if cut == 5 else 900)
    scene.apply(lower={"targets": 4})
    assert scene.files["4.targets.json"] == NEXT
    assert "900.targets.json" not in scene.files
    assert visit(scene, tmp_path / "client") == 4
    assert visit(scene, tmp_path / "fresh") == 4


NEW = {"targets": "targets-new", "snapshot": "snapshot-new", "timestamp": "timestamp-new"}
ALL_NEW = root(3, **NEW)
ALL_LOWER = dict.fromkeys(NEW, 4)


def take_all(scene: Scene) -> None:
    """A thief with all online keys published from here; the daemon holds the new ones alone."""
    stolen = targets(900, "THIEF")
    high = snapshot(900, {**LISTED, "targets": (900, stolen)})
    scene.publish(("targets", 900, stolen), ("snapshot", 900, high))
    scene.publish(("timestamp", 900, timestamp(900, 900, high)))
    scene.release(*vouched(4), kind="FAST_FORWARD")
    scene.hold(*NEW.values(), "bins")


def vouched(version: int, **more: tuple[int, bytes]) -> list[File]:
    """The owner's files by the new keys; the snapshot lists `more`."""
    good = targets(version, "good", "targets-new")
    low = snapshot(version, {**LISTED, **more, "targets": (version, good)}, "snapshot-new")
    of_all = timestamp(version, version, low, "timestamp-new")
    files: list[File] = [("targets", version, good), ("snapshot", version, low)]
    return [*files, ("root", 3, ALL_NEW), ("timestamp", version, of_all)]


@pytest.mark.parametrize("cut", range(6))
def test_whoever_publishes_after_a_cut_takes_up_nothing_of_a_thief(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """An hourly job comes between a recovery that was killed and its repetition."""
    take_all(scene)
    with killed_at(cut, monkeypatch), pytest.raises(SystemExit):
        scene.apply(lower=ALL_LOWER)
    with suppress(errors.KeydClientError):
        scene.repository().publish()
    asked = [r.metadata.payload for r in scene.daemon.of(SignMetadataRequest)]
    assert not [payload for payload in asked if b"THIEF" in payload or b'"version":90' in payload]
    scene.apply(lower=ALL_LOWER)
    assert visit(scene, tmp_path / "client") == 4
    assert not [name for name in scene.files if name.startswith("90")]


def test_an_emergency_goes_below_a_thiefs_numbers_where_its_caller_names_them(
    scene: Scene,
) -> None:
    """Whoever has the timestamp's key can list a snapshot that is nowhere."""
    high = 2**31 - 1
    scene.publish(("timestamp", high, timestamp(high, high, b"none")))
    new = timestamp(4, 3, SNAPSHOT, "timestamp-new")
    scene.release(("root", 3, root(3, timestamp="timestamp-new")), ("timestamp", 4, new))
    before = scene.files
    for lower, role in (({}, "timestamp"), ({"timestamp": 4}, "snapshot")):
        with pytest.raises(errors.PolicyViolation) as refused:
            scene.apply(lower=lower)
        assert refused.value.reason == "ROTATION_OVERTAKEN"
        assert f"if it is a thief's, name {role} in apply(…, lower=" in refused.value.message
        assert f"{high + 1}" not in refused.value.message
        assert scene.files == before
    scene.apply(lower={"timestamp": 4, "snapshot": 3})
    assert scene.files["timestamp.json"] == new
    assert scene.confirmed == ["r-1"]


def test_what_the_new_keys_have_published_does_not_go_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon was not told; an hourly job goes on; then the recovery is repeated as it was."""
    take_all(scene)
    with killed_at(6, monkeypatch), pytest.raises(SystemExit):
        scene.apply(lower=ALL_LOWER)
    assert "3.root.json" in scene.files
    repository = scene.repository()
    with repository.edit_targets():
        pass
    repository.publish()
    before = scene.files
    assert "5.targets.json" in before
    with pytest.raises(
        errors.PolicyViolation, match=r"5 is published; and the new keys"
    ) as refused:
        scene.apply(lower=ALL_LOWER)
    assert refused.value.reason == "ROTATION_OVERTAKEN"
    assert "lower" not in refused.value.message
    assert (scene.files, scene.confirmed) == (before, [])
    # What `keyd rotate continue` makes of it goes out by the same call.
    bins = {name: (1, before[f"1.{name}.json"]) for name in ("bin-0", "bin-1")}
    scene.release(*vouched(6, **bins), kind="FAST_FORWARD")
    scene.apply(lower=ALL_LOWER)
    assert {"4.targets.json", "5.targets.json", "6.targets.json"} <= set(scene.files)
    assert scene.confirmed == ["r-1"]


def test_a_new_root_that_came_first_settles_nothing(scene: Scene) -> None:
    """Published by hand, of a recovery that leaves the timestamp's key as it is."""
    drive_up(scene)
    content = snapshot(4, {**LISTED, "targets": (4, NEXT)}, "snapshot-new")
    files: list[File] = [("targets", 4, NEXT), ("snapshot", 4, content)]
    files += [
        ("root", 3, root(3, snapshot="snapshot-new")),
        ("timestamp", 4, timestamp(4, 4, content)),
    ]
    scene.release(*files, kind="FAST_FORWARD")
    scene.publish(files[2])
    scene.apply(lower={"targets": 4})
    assert "900.targets.json" not in scene.files
    assert scene.confirmed == ["r-1"]


def test_only_lowered_roles_are_replaced_and_root_never(tmp_path: Path) -> None:
    files = store.RepositoryStore(tmp_path)
    files.publish([("root", 1, b"one"), ("targets", 1, b"one"), ("snapshot", 1, b"one")])
    lowered = {"targets": 1, "root": 1}
    for role in ("root", "snapshot"):
        with pytest.raises(errors.AlreadyExists, match="FILE_EXISTS"):
            files.publish([("targets", 1, b"two"), (role, 1, b"two")], lowered=lowered)
        assert files.read("targets") == b"one"
    files.publish([("targets", 1, b"two")], lowered={"targets": 1})
    assert files.read("targets") == b"two"
