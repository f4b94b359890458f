"""KeydRepository over real servers and a real ledger: what it publishes, and what crashes leave."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot

from demo.web import download, new_client, over_http
from keyd_client import Client, KeydRepository, KeydSigner, Profile, RoleKeys, errors, store
from tests.serving import Place, make_place, serve

ROLES = {
    "root": RoleKeys(2, ["root-1", "root-2", "root-3"]),
    "targets": RoleKeys(1, ["targets-1"]),
    "snapshot": RoleKeys(1, ["snapshot-1"]),
    "timestamp": RoleKeys(1, ["timestamp-1"]),
}
KEYS = [name for keys in ROLES.values() for name in keys.keys] + ["team-1", "targets-2"]


@dataclass
class Desk:
    """A publisher's place: keys on a token, a directory, and what root changes were shown."""

    place: Place
    client: Client
    profile: Profile
    directory: Path
    agrees: bool = True
    shown: list[tuple[str, ...]] = field(default_factory=list)

    def confirm(self, lines: Sequence[str]) -> bool:
        self.shown.append(tuple(lines))
        return self.agrees

    def open(self) -> KeydRepository:
        """What a new process would start with."""
        return KeydRepository(
            self.directory, self.profile, "demo", confirm_root_change=self.confirm
        )

    def started(self) -> KeydRepository:
        """A repository with a delegated role, published."""
        repository = self.open()
        repository.initialize(ROLES)
        repository.add_targets({"hello.txt": b"hello"})
        repository.delegate("team", RoleKeys(1, ["team-1"]), ["team/*"])
        repository.add_targets({"team/tool": b"tool"}, "team")
        repository.publish()
        return repository

    def files(self) -> set[str]:
        return {path.name for path in (self.directory / "metadata").iterdir()}


@pytest.fixture
def desk(tmp_path: Path, socket_dir: Path) -> Iterator[Desk]:
    place = make_place(tmp_path, socket_dir)
    with serve(place) as serving:
        profile = Profile(serving.targets[0], timeout_s=20)
        with Client(profile) as client:
            for name in KEYS:
                client.keys.create(name, "soft")
            yield Desk(place, client, profile, tmp_path / "repository")


def test_a_stock_client_downloads_from_it(desk: Desk, tmp_path: Path) -> None:
    desk.started()
    assert desk.files() == {
        "1.root.json",
        "2.targets.json",
        "1.team.json",
        "1.snapshot.json",
        "timestamp.json",
    }
    with over_http(desk.directory) as url:
        client = new_client(url, desk.directory, tmp_path / "client")
        client.refresh()
        assert download(client, "hello.txt") == b"hello"
        assert download(client, "team/tool") == b"tool"


def test_publishing_again_changes_nothing(desk: Desk) -> None:
    desk.started().publish()
    desk.open().publish()
    assert len(desk.files()) == 5
    roles = {role.role: role for role in desk.client.repositories.state("demo").roles}
    assert roles["snapshot"].trusted_version == roles["timestamp"].trusted_version == 1


def test_what_expires_soon_is_renewed(desk: Desk) -> None:
    desk.started()
    desk.open().publish(renew_within=timedelta(days=8))
    assert {"2.snapshot.json", "2.targets.json"} <= desk.files()
    assert "3.targets.json" not in desk.files()
    desk.open().publish(renew_within=timedelta(days=91))
    assert {"3.targets.json", "2.team.json", "3.snapshot.json"} <= desk.files()


def test_every_available_key_of_a_role_signs(desk: Desk) -> None:
    desk.started()
    root = Metadata[Root].from_file(str(desk.directory / "metadata" / "1.root.json"))
    assert len(root.signatures) == 3


def test_the_daemon_knows_the_hash_of_every_published_file(desk: Desk) -> None:
    """A snapshot with a wrong hash is refused, so the right one was checked."""
    repository = desk.started()
    snapshot = repository.open("snapshot")
    snapshot.signed.version += 1
    snapshot.signed.meta["team.json"] = MetaFile(1, 5, {"sha256": "0" * 64})
    uri, key = (
        "keyd:p/snapshot-1",
        repository.root().get_key(repository.root().roles["snapshot"].keyids[0]),
    )
    assert uri
    signer = KeydSigner(desk.profile, "snapshot-1", key).for_role("demo", "snapshot")
    with pytest.raises(errors.PolicyViolation, match="TARGETS_REFERENCE_MISMATCH"):
        signer.sign(snapshot.signed_bytes)


# --- root changes


def test_a_root_change_is_shown_before_it_is_signed(desk: Desk, tmp_path: Path) -> None:
    repository = desk.started()
    with over_http(desk.directory) as url:
        new_client(url, desk.directory, tmp_path / "client").refresh()
        repository.set_role_keys("targets", RoleKeys(1, ["targets-2"]))
        assert "2.root.json" not in desk.files()
        repository.publish()
        client = new_client(url, desk.directory, tmp_path / "client")
        client.refresh()
        assert download(client, "hello.txt") == b"hello"
    assert len(desk.shown) == 1
    assert "version: 1 -> 2" in desk.shown[0]
    assert any(line.startswith("role targets: key added") for line in desk.shown[0])
    # The new key had to sign targets anew, and the snapshot that lists it.
    assert {"3.targets.json", "2.snapshot.json"} <= desk.files()


def test_a_declined_root_change_signs_nothing(desk: Desk) -> None:
    repository = desk.started()
    desk.agrees = False
    size = desk.client.audit.size()
    with pytest.raises(errors.ChangeNotConfirmed):
        repository.set_role_keys("targets", RoleKeys(1, ["targets-2"]))
    assert desk.client.audit.size() == size
    desk.agrees = True
    repository.set_role_keys("targets", RoleKeys(1, ["targets-2"]))


def test_without_a_confirmation_root_cannot_change(desk: Desk) -> None:
    desk.started()
    silent = KeydRepository(desk.directory, desk.profile, "demo")
    with pytest.raises(errors.ChangeNotConfirmed, match="confirm_root_change"):
        silent.set_role_keys("targets", RoleKeys(1, ["targets-2"]))


def test_two_roots_before_one_publication_are_both_published(desk: Desk, tmp_path: Path) -> None:
    """Clients walk from root to root: one that was never written would strand them."""
    repository = desk.started()
    with over_http(desk.directory) as url:
        new_client(url, desk.directory, tmp_path / "client").refresh()
        repository.set_role_keys("targets", RoleKeys(1, ["targets-2"]))
        repository.set_role_keys("targets", RoleKeys(1, ["targets-1"]))
        repository.publish()
        client = new_client(url, desk.directory, tmp_path / "client")
        assert download(client, "hello.txt") == b"hello"
    assert {"2.root.json", "3.root.json"} <= desk.files()


def test_removed_and_new_root_keys_sign_together(desk: Desk, tmp_path: Path) -> None:
    """Two of three root keys go: the old threshold needs at least one that is leaving."""
    repository = desk.started()
    for name in ("root-4", "root-5"):
        desk.client.keys.create(name, "soft")
    with over_http(desk.directory) as url:
        new_client(url, desk.directory, tmp_path / "client").refresh()
        repository.set_role_keys("root", RoleKeys(2, ["root-3", "root-4", "root-5"]))
        repository.publish()
        new_client(url, desk.directory, tmp_path / "client").refresh()
    root = Metadata[Root].from_file(str(desk.directory / "metadata" / "2.root.json"))
    # Three of the new list, and one more of the old list, which is all it takes.
    assert len(root.signatures) == 4


# --- keys that cannot sign


def test_a_key_that_cannot_sign_is_passed_over(desk: Desk) -> None:
    desk.started()
    desk.client.keys.suspend("root-3")
    repository = desk.open()
    repository.set_role_keys("targets", RoleKeys(1, ["targets-2"]))
    repository.publish()
    assert "2.root.json" in desk.files()


def test_a_missed_threshold_is_completed_later(desk: Desk) -> None:
    desk.started()
    for name in ("root-2", "root-3"):
        desk.client.keys.suspend(name)
    with pytest.raises(errors.PolicyViolation) as raised:
        desk.open().set_role_keys("targets", RoleKeys(1, ["targets-2"]))
    assert raised.value.reason == "THRESHOLD_NOT_REACHED"
    assert "root version 2 has 1 of 2 signatures" in str(raised.value)
    assert "root-3: KEY_SUSPENDED" in str(raised.value)
    desk.client.keys.resume("root-2")
    repository = desk.open()
    repository.take_recorded("root")
    repository.publish()
    assert repository.root().version == 2


# --- runs that died


def test_a_version_signed_by_a_run_that_died_is_skipped(desk: Desk, tmp_path: Path) -> None:
    desk.started()
    desk.open().add_targets({"lost": b"x"})  # signed, never published
    repository = desk.open()
    repository.add_targets({"kept": b"y"})
    repository.publish()
    assert repository.targets().version == 4
    assert "3.targets.json" not in desk.files()
    with over_http(desk.directory) as url:
        client = new_client(url, desk.directory, tmp_path / "client")
        assert download(client, "kept") == b"y"
        assert client.get_targetinfo("lost") is None


def test_a_root_signed_by_a_run_that_died_is_taken_up(desk: Desk) -> None:
    desk.started()
    desk.open().set_role_keys("targets", RoleKeys(1, ["targets-2"]))
    repository = desk.open()
    with pytest.raises(errors.Equivocation, match="root versions cannot be skipped"):
        repository.set_role_keys("targets", RoleKeys(1, ["team-1"]))
    repository = desk.open()
    repository.take_recorded("root")
    repository.publish()
    assert "2.root.json" in desk.files()


def test_initialize_goes_on_where_a_run_died(desk: Desk) -> None:
    desk.open().initialize(ROLES)
    repository = desk.open()
    repository.initialize(ROLES)
    repository.publish()
    assert desk.files() == {"1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"}
    with pytest.raises(errors.AlreadyExists):
        desk.open().initialize(ROLES)


def test_initialize_with_other_roles_than_recorded_is_refused(desk: Desk) -> None:
    desk.open().initialize(ROLES)
    with pytest.raises(errors.Equivocation):
        desk.open().initialize(ROLES | {"targets": RoleKeys(1, ["targets-2"])})


def test_a_publication_cut_anywhere_leaves_clients_a_whole_repository(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four files get their names; the power goes before each of them in turn."""
    desk.started()
    real: Callable[[Path, Path], None] = store._name
    with over_http(desk.directory) as url:
        for cut in range(4):
            repository = desk.open()
            repository.add_targets({"hello.txt": f"cut {cut}".encode()})
            repository.add_targets({"team/tool": b"tool"}, "team")
            left = cut

            def name(temporary: Path, path: Path) -> None:
                nonlocal left
                if left == 0:
                    raise OSError("no power")
                left -= 1
                real(temporary, path)

            monkeypatch.setattr(store, "_name", name)
            with pytest.raises(OSError, match="no power"):
                repository.publish()
            monkeypatch.setattr(store, "_name", real)
            client = new_client(url, desk.directory, tmp_path / "client")
            client.refresh()
            assert download(client, "hello.txt") == b"hello"
        repository = desk.open()
        repository.add_targets({"hello.txt": b"at last"})
        repository.publish()
        client = new_client(url, desk.directory, tmp_path / "client")
        assert download(client, "hello.txt") == b"at last"


# --- files


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_targets_stay_inside(desk: Desk, path: str) -> None:
    repository = desk.started()
    with pytest.raises(errors.InvalidRequest, match="TARGET_PATH_UNSAFE"):
        repository.add_targets({path: b"x"})


def test_a_target_may_be_copied_from_a_file(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    repository = desk.started()
    repository.add_targets({"dir/big": tmp_path / "big"})
    repository.publish()
    with over_http(desk.directory) as url:
        client = new_client(url, desk.directory, tmp_path / "client")
        assert download(client, "dir/big") == bytes(3_000_000)


def test_web_servers_can_read_what_is_made_under_any_umask(tmp_path: Path) -> None:
    """Folders that were there keep the mode that somebody gave them."""
    kept = tmp_path / "repository" / "targets"
    kept.mkdir(parents=True)
    kept.chmod(0o750)
    before = os.umask(0o077)
    try:
        files = store.RepositoryStore(tmp_path / "repository")
        files.publish([("targets", 1, b"one")])
        files.write_target("a/b/c", "0" * 64, b"content")
    finally:
        os.umask(before)
    made = [tmp_path / "repository" / "metadata", kept / "a", kept / "a" / "b"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o755] * 3
    assert stat.S_IMODE(kept.stat().st_mode) == 0o750
    for path in (made[0] / "1.targets.json", made[2] / f"{'0' * 64}.c"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o2775), (0o077, 0o2755)])
def test_a_group_keeps_what_folder_and_umask_give_it(tmp_path: Path, umask: int, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    before = os.umask(umask)
    try:
        files = store.RepositoryStore(shared / "repository")
        files.write_target("a/b", "0" * 64, b"content")
    finally:
        os.umask(before)
    made = [shared / "repository", files.metadata, files.targets / "a"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [mode] * 3


def test_published_versions_are_never_overwritten(tmp_path: Path) -> None:
    files = store.RepositoryStore(tmp_path)
    files.publish([("targets", 1, b"one")])
    files.publish([("targets", 1, b"one")])
    with pytest.raises(errors.AlreadyExists, match="FILE_EXISTS"):
        files.publish([("targets", 1, b"another")])
    assert store.RepositoryStore(tmp_path).read("targets") == b"one"


def test_a_repository_without_consistent_snapshots_is_not_ours(desk: Desk) -> None:
    repository = desk.started()
    with (
        pytest.raises(errors.InvalidRequest, match="CONSISTENT_SNAPSHOT_REQUIRED"),
        repository.edit_root() as root,
    ):
        root.consistent_snapshot = False


def test_snapshots_list_length_and_hash(desk: Desk) -> None:
    desk.started()
    snapshot = Metadata[Snapshot].from_file(str(desk.directory / "metadata" / "1.snapshot.json"))
    for name, entry in snapshot.signed.meta.items():
        content = (desk.directory / "metadata" / f"{entry.version}.{name}").read_bytes()
        entry.verify_length_and_hashes(content)
        assert entry.length == len(content)
        assert entry.hashes
