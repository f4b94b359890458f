"""A published repository, and a daemon that hands out the files of a rotation as a test says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key
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

from keyd_client import KeydRepository, errors
from keyd_protos.v1 import rotations_pb2 as pb
from keyd_protos.v1.keys_pb2 import GetKeyRequest, ListKeysResponse
from keyd_protos.v1.repositories_pb2 import ImportedFile, ImportMetadataResponse
from tests.unit.sdk.scripted_daemon import ScriptedDaemon

ONLINE = ("timestamp", "snapshot", "targets")
NAMES = ("root", *ONLINE, "team", "timestamp-new", "snapshot-new", "targets-new", "bins")
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


def targets(version: int, note: str = "", by: str = "targets") -> bytes:
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
    return sign(payload, by)


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

    def repository(self) -> KeydRepository:
        return KeydRepository(self.directory, self.daemon.profile, "demo")

    def apply(self, **more: Any) -> None:
        self.repository().apply("r-1", **more)

    def hold(self, *keys: str) -> None:
        """The daemon signs with these keys, and records what it is told of files."""
        self.daemon.signers |= {name: KEYS[name] for name in keys}
        held = [self.daemon.get_key(GetKeyRequest(name=name)).key for name in keys]
        self.daemon.answers |= {
            "ListKeys": lambda _: ListKeysResponse(keys=held),
            "ImportMetadata": lambda request: ImportMetadataResponse(
                files=[ImportedFile(role=file.role, recorded=True) for file in request.files]
            ),
        }

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


def refuses(scene: Scene, reason: str, *files: File, **more: Any) -> None:
    before = scene.files
    scene.release(*files, kind=more.pop("kind", "DELEGATED"))
    with pytest.raises(errors.KeydClientError) as refused:
        scene.apply(**more)
    assert refused.value.reason == reason, refused.value
    assert (scene.files, scene.confirmed) == (before, [])
