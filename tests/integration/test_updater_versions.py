"""Stock python-tuf clients follow what KeydRepository writes, version after version."""

from __future__ import annotations

import json
from pathlib import Path

from demo.web import download, new_client, over_http
from keyd_client import RoleKeys
from tests.integration.sdk_daemon import ROLES, Running, running

__all__ = ["running"]
VERSIONS = 10


def test_ten_versions_of_every_role(running: Running, tmp_path: Path) -> None:
    """One client follows every step, another comes from root 1 to the end at once.

    Each root changes the keys of an online role, so that none of the others can stay as it is.
    """
    running.make_role_keys()
    running.make_keys("team-1", "timestamp-2", "snapshot-2")
    repository = running.repository()
    repository.initialize(ROLES)
    repository.delegate("team", RoleKeys(1, ["team-1"]), ["team/*"])
    repository.add_targets({"team/tool": b"1"}, "team")
    repository.publish()
    with over_http(running.place.repository) as url:
        for version in range(2, VERSIONS + 1):
            role = ("timestamp", "snapshot")[version % 2]
            repository.set_role_keys(role, RoleKeys(1, [f"{role}-{1 + version // 2 % 2}"]))
            repository.add_targets({"hello.txt": str(version).encode()})
            repository.add_targets({"team/tool": str(version).encode()}, "team")
            repository.publish()
            follower = new_client(url, running.place.repository, tmp_path / "follower")
            assert download(follower, "hello.txt") == str(version).encode()
            assert download(follower, "team/tool") == str(version).encode()
        late = new_client(url, running.place.repository, tmp_path / "late")
        assert download(late, "team/tool") == str(VERSIONS).encode()
    for folder in ("follower", "late"):
        assert _versions(tmp_path / folder / "metadata") == {
            "root": 10,
            "targets": 10,
            "team": 10,
            "snapshot": 10,
            "timestamp": 10,
        }


def _versions(metadata: Path) -> dict[str, int]:
    """What a client has accepted, by role."""
    return {
        path.stem: json.loads(path.read_bytes())["signed"]["version"]
        for path in metadata.glob("*.json")
    }
