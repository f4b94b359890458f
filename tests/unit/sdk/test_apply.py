"""`KeydRepository.apply` and a daemon that somebody else leads: genuine files, false labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.ngclient import Updater

from keyd_client import KeydRepository, errors, store
from keyd_protos.v1 import rotations_pb2 as pb
from tests.published import Published
from tests.unit.sdk.scripted_daemon import ScriptedDaemon

ONLINE = ("timestamp", "snapshot", "targets")
NAMES = ("root", *ONLINE, "team", "timestamp-new", "snapshot-new", "bins")
KEYS = {name: CryptoSigner.generate_ed25519() for name in NAMES}
DAY = timedelta(days=1)
File = tuple[str, int, bytes]


def sign(payload: Root | Timestamp | Snapshot | Targets, key: str, life: timedelta = DAY) -> bytes:
    payload.expires = (datetime.now(UTC) + life).replace(microsecond=0)
    metadata: Metadata[Any] = Metadata(payload)
    metadata.sign(KEYS[key])
    return metadata.to_bytes()


def root(version: int, by: str = "root", **keys: str) -> bytes:
    payload = Root(version=version, consistent_snapshot=True)
    for role in ("root", *ONLINE):
        payload.add_key(KEYS[keys.get(role, role)].public_key, role)
    return sign(payload, by)


def targets(version: int, note: str = "") -> bytes:
    """Delegates to the team, and to two roles that share a key."""
    keys: dict[str, Key] = {
        KEYS[name].public_key.keyid: KEYS[name].public_key for name in ("team", "bins")
    }
    team, bins = keys
    roles = {"team": DelegatedRole("team", [team], 1, False, paths=["team/*"])}
    for name in ("bin-0", "bin-1"):
        roles[name] = DelegatedRole(name, [bins], 1, False, paths=[f"{name}/*"])
    payload = Targets(version=version, delegations=Delegations(keys, roles))
    payload.unrecognized_fields["note"] = note
    return sign(payload, "targets")


def listed(version: int, content: bytes) -> MetaFile:
    return MetaFile.from_data(version, content, ["sha256"])


def snapshot(version: int, files: Mapping[str, tuple[int, bytes]], by: str = "snapshot") -> bytes:
    meta = {f"{role}.json": listed(*file) for role, file in files.items()}
    return sign(Snapshot(version=version, meta=meta), by)


def timestamp(
    version: int, of: int, content: bytes, by: str = "timestamp", life: timedelta = DAY
) -> bytes:
    return sign(Timestamp(version=version, snapshot_meta=listed(of, content)), by, life)


TEAM = {n: sign(Targets(version=n), "team") for n in (1, 2, 3)}
BINS = {n: sign(Targets(version=1, targets={}), "bins", n * DAY) for n in (1, 2)}


@dataclass
class Scene:
    """A published repository, and a daemon that hands out what a test says."""

    daemon: ScriptedDaemon
    directory: Path
    confirmed: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.directory / "metadata").iterdir()}

    def publish(self, *files: File) -> None:
        folder = self.directory / "metadata"
        folder.mkdir(parents=True, exist_ok=True)
        for role, version, content in files:
            name = f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"
            (folder / name).write_bytes(content)

    def release(self, *files: File, kind: str = "DELEGATED") -> None:
        """What the daemon says of rotation r-1."""
        found = [
            pb.RotationFile(
                role=role,
                version=version,
                content=content,
                content_sha256=hashlib.sha256(content).digest(),
            )
            for role, version, content in files
        ]
        rotation = pb.Rotation(name="r-1", kind=getattr(pb, f"ROTATION_KIND_{kind}"))
        self.daemon.answers |= {
            "GetRotation": lambda _: pb.GetRotationResponse(rotation=rotation),
            "GetFiles": lambda request: pb.GetFilesResponse(
                files=found[request.first :], total=len(found)
            ),
            "ConfirmPublished": self._confirm,
        }

    def apply(self, **more: Any) -> None:
        KeydRepository(self.directory, self.daemon.profile, "demo").apply("r-1", **more)

    def _confirm(self, request: Any) -> pb.ConfirmPublishedResponse:
        self.confirmed.append(request.rotation)
        return pb.ConfirmPublishedResponse()


LISTED = {"targets": (3, targets(3)), "team": (2, TEAM[2])}
SNAPSHOT = snapshot(3, LISTED)
TIMESTAMP = timestamp(3, 3, SNAPSHOT)
BEFORE: Sequence[File] = (
    ("root", 1, root(1)),
    ("root", 2, root(2)),
    ("targets", 3, LISTED["targets"][1]),
    ("team", 2, TEAM[2]),
    ("snapshot", 3, SNAPSHOT),
    ("timestamp", 3, TIMESTAMP),
)
NEW_ROOT = root(3, timestamp="timestamp-new", snapshot="snapshot-new")


@pytest.fixture
def scene(daemon: ScriptedDaemon, tmp_path: Path) -> Scene:
    scene = Scene(daemon, tmp_path / "repository")
    scene.publish(*BEFORE)
    return scene


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


def refuses(scene: Scene, reason: str, *files: File, **more: Any) -> None:
    before = scene.files
    scene.release(*files, kind=more.pop("kind", "DELEGATED"))
    with pytest.raises(errors.KeydClientError) as refused:
        scene.apply(**more)
    assert refused.value.reason == reason, refused.value
    assert (scene.files, scene.confirmed) == (before, [])


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
