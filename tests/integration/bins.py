"""Hash bins for tests: published, and visited by stock clients without a network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tuf.ngclient import Updater

from keyd.ports import View
from keyd.services.rotation.files import published_file
from keyd.services.world import World
from tests.published import Published
from tests.worlds import Author

BINS = tuple(f"bin-{number}" for number in range(8))


def publish(author: Author, version: int, targets: int, **roles: int) -> None:
    """A snapshot that lists these versions, and its timestamp."""
    author.sign("snapshot", "snapshot", author.snapshot(version, targets=targets, **roles))
    author.sign("timestamp", "timestamp", author.timestamp(version, version))


def delegate(author: Author, delegator: dict[str, Any], *roles: str) -> None:
    """Publish version 2 of targets and the first of each role, by the shared key."""
    author.sign("targets", "targets", delegator)
    for role in roles:
        author.sign("shared", role, author.targets(1))
    publish(author, 2, 2, **dict.fromkeys(roles, 1))


def bins(author: Author, version: int, key: str, bit_length: int = 3) -> dict[str, Any]:
    """Targets that delegate to `bin-0` and so on."""
    succinct = {**author.listing(1, key), "bit_length": bit_length, "name_prefix": "bin"}
    delegations = {"keys": author.key_objects(key), "succinct_roles": succinct}
    return author.targets(version, delegations=delegations)


def _published(role: str, version: int, view: View) -> bytes | None:
    return published_file(view, "demo", role, version)


def client(directory: Path, world: World, newest: Mapping[str, int]) -> Updater:
    """A stock client that has refreshed; what `directory` holds is its cache."""
    directory.mkdir(exist_ok=True)
    files: dict[str, bytes] = {}
    for role, last in newest.items():
        for version in range(1, last + 1):
            content = world.ledger.read(partial(_published, role, version))
            if content:
                files[f"{version}.{role}.json"] = files[f"{role}.json"] = content
    where, url = str(directory), "http://test.invalid/"
    updater = Updater(
        where, url, where, url, fetcher=Published(files), bootstrap=files["1.root.json"]
    )
    updater._trusted_set.reference_time = world.clock.now()
    updater.refresh()
    return updater


def all_bins(updater: Updater) -> set[object]:
    """What a search finds in every bin; none of them lists a file."""
    return {updater.get_targetinfo(f"file-{number}") for number in range(60)}
