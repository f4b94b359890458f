"""`KeydRepository.apply` and a daemon that somebody else leads: genuine files, false labels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.sdk.scene import (
    BINS,
    DAY,
    LISTED,
    SNAPSHOT,
    TEAM,
    TIMESTAMP,
    File,
    Scene,
    refuses,
    root,
    snapshot,
    targets,
    timestamp,
)


def replaced() -> list[File]:
    """A planned rotation of the timestamp key."""
    content = timestamp(4, 3, SNAPSHOT, "timestamp-new")
    return [("root", 3, root(3, timestamp="timestamp-new")), ("timestamp", 4, content)]


def test_what_fits_is_published(scene: Scene) -> None:
    files = replaced()
    scene.release(*files)
    scene.apply()
    scene.apply()
    assert scene.confirmed == ["r-1", "r-1"]
    assert [scene.files[name] for name in ("3.root.json", "timestamp.json")] == [
        f[2] for f in files
    ]


def second(version: int, **listed: tuple[int, bytes]) -> list[File]:
    """A snapshot that lists these as well, and its timestamp."""
    content = snapshot(version, {**LISTED, **listed})
    return [("snapshot", version, content), ("timestamp", version, timestamp(4, version, content))]


NEXT = targets(4)
STALE = timestamp(4, 3, SNAPSHOT, life=-DAY)
LACKING = snapshot(4, {"targets": LISTED["targets"]})
BACK = snapshot(4, {**LISTED, "team": (1, TEAM[1])})


@pytest.mark.parametrize(
    ("reason", "files"),
    [
        pytest.param("ECHO_MISMATCH", [("root", 3, root(1))], id="an old root called a new one"),
        pytest.param("ECHO_MISMATCH", [("root", 3, TIMESTAMP)], id="a timestamp called a root"),
        pytest.param("ECHO_MISMATCH", [("snapshot", 4, targets(4))], id="of another type"),
        pytest.param("ECHO_MISMATCH", [("team", 3, TEAM[2])], id="of another version"),
        pytest.param("ECHO_MISMATCH", [("root", 3, b"{}")], id="no metadata"),
        pytest.param("ECHO_MISMATCH", [("root", 2, root(2, targets="team"))], id="another root 2"),
        pytest.param("ECHO_MISMATCH", [("team", 3, TEAM[3]), ("team", 2, TEAM[2])], id="twice"),
        pytest.param("ROTATION_UNFIT", [("root", 4, root(4))], id="a root after a gap"),
        pytest.param(
            "THRESHOLD_NOT_REACHED", [("root", 3, root(3, by="team"))], id="a forged root"
        ),
        pytest.param(
            "THRESHOLD_NOT_REACHED",
            [("root", 3, root(3, timestamp="timestamp-new"))],
            id="a root without the timestamp that it needs",
        ),
        pytest.param("ROTATION_FILES_EXPIRED", [("timestamp", 4, STALE)], id="expired"),
        pytest.param("ROTATION_UNFIT", [("targets", 4, NEXT)], id="listed by no snapshot"),
        pytest.param("ROTATION_UNFIT", second(4)[:1], id="a snapshot that no timestamp names"),
        pytest.param("ROTATION_UNFIT", second(4)[1:], id="a timestamp without its snapshot"),
        pytest.param(
            "ROTATION_UNFIT", second(4, targets=(4, NEXT)), id="a snapshot without its targets"
        ),
        pytest.param(
            "ROTATION_UNFIT",
            [
                ("snapshot", 4, LACKING),
                ("timestamp", 4, timestamp(4, 4, LACKING)),
            ],
            id="a snapshot that forgets a role",
        ),
        pytest.param(
            "ROTATION_OVERTAKEN",
            [("team", 1, TEAM[1]), ("snapshot", 4, BACK), ("timestamp", 4, timestamp(4, 4, BACK))],
            id="an older delegated role",
        ),
        pytest.param(
            "ROTATION_OVERTAKEN",
            [("snapshot", 4, BACK), ("timestamp", 4, timestamp(4, 4, BACK))],
            id="a snapshot that lists an older delegated role",
        ),
        pytest.param(
            "ROTATION_UNFIT",
            [
                ("bin-0", 1, BINS[2]),
                ("bin-1", 1, BINS[1]),
                *second(4, **{"bin-0": (1, BINS[1]), "bin-1": (1, BINS[2])}),
            ],
            id="two roles of one key that change their names",
        ),
    ],
)
def test_genuine_files_with_false_labels(scene: Scene, reason: str, files: Sequence[File]) -> None:
    refuses(scene, reason, *files)


def test_it_is_not_the_daemon_who_says_what_is_a_recovery(scene: Scene) -> None:
    """Public files of long ago, called a fast-forward recovery."""
    old_targets = targets(1)
    old = snapshot(1, {"targets": (1, old_targets), "team": (1, TEAM[1])})
    files = [("targets", 1, old_targets), ("team", 1, TEAM[1]), ("snapshot", 1, old)]
    files.append(("timestamp", 1, timestamp(1, 1, old)))
    refuses(scene, "ROTATION_OVERTAKEN", *files, kind="FAST_FORWARD")
    low: File = ("timestamp", 1, timestamp(1, 3, SNAPSHOT))
    refuses(scene, "ROTATION_OVERTAKEN", low, kind="FAST_FORWARD")
    # Neither more than what the caller lowers, nor further.
    refuses(scene, "ROTATION_OVERTAKEN", *files, lower={"timestamp": 1})
    refuses(scene, "ROTATION_OVERTAKEN", low, lower={"timestamp": 2})
