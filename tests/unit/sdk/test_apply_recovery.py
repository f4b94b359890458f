"""`KeydRepository.apply` of recoveries: what a thief published goes, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.ngclient import Updater

from keyd_client import errors, store
from tests.published import Published
from tests.unit.sdk.scene import (
    BEFORE,
    LISTED,
    NEW_ROOT,
    File,
    Scene,
    refuses,
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


@pytest.mark.parametrize("cut", range(5))
def test_a_recovery_replaces_what_a_thief_published_under_its_number(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Killed before each of four names, and after the last: it is repeated, and clients go on."""
    overwrite(scene)
    assert visit(scene, tmp_path / "client") == 900
    scene.release(*recovery(), kind="FAST_FORWARD")
    real, named = store._name, 0

    def name(temporary: Path, path: Path) -> None:
        nonlocal named
        if named == cut:
            raise SystemExit("killed")
        named += 1
        real(temporary, path)

    def withdraw(*_: object) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_name", name)
        patch.setattr(store.RepositoryStore, "withdraw_above", withdraw)
        with pytest.raises(SystemExit):
            scene.apply(lower={"targets": 4})
    # Whoever comes meanwhile keeps what it has.
    with suppress(RepositoryError):
        assert visit(scene, tmp_path / "client") == (4 if cut == 4 else 900)
    scene.apply(lower={"targets": 4})
    assert scene.files["4.targets.json"] == NEXT
    assert "900.targets.json" not in scene.files
    assert visit(scene, tmp_path / "client") == 4
    assert visit(scene, tmp_path / "fresh") == 4


def test_only_lowered_roles_are_replaced_and_root_never(tmp_path: Path) -> None:
    files = store.RepositoryStore(tmp_path)
    files.publish([("root", 1, b"one"), ("targets", 1, b"one"), ("snapshot", 1, b"one")])
    for role in ("root", "snapshot"):
        with pytest.raises(errors.AlreadyExists, match="FILE_EXISTS"):
            files.publish([("targets", 1, b"two"), (role, 1, b"two")], replaced={"targets", "root"})
        assert files.read("targets") == b"one"
    files.publish([("targets", 1, b"two")], replaced={"targets"})
    assert files.read("targets") == b"two"
