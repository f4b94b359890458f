"""Fast-forward recovery by stock clients: which rotations let one that cached the attack go on.

For every role that was driven up, every set of top-level roles whose keys a recovery replaces. The
client is python-tuf's, with the attacker's files in its cache.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
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

from keyd.domain import metadata_file
from keyd.domain.public_keys import fingerprint_of
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.objections import objections
from keyd.domain.rotation.standing import Standing
from tests.published import Published

ONLINE = ("timestamp", "snapshot", "targets")
ROLES = (*ONLINE, "team")
KEYS = {
    name: CryptoSigner.generate_ed25519()
    for role in ("root", *ROLES)
    for name in (role, f"{role}-new")
}
DRIVEN_UP, ATTACKED, RECOVERED = 1000, 2, 3
Files = Mapping[str, bytes]
Payload = Root | Timestamp | Snapshot | Targets
NOTHING: frozenset[str] = frozenset()


def signed(payload: Payload, *names: str) -> bytes:
    payload.expires = (datetime.now(UTC) + timedelta(days=9)).replace(microsecond=0)
    metadata: Metadata[Any] = Metadata(payload)
    for name in names:
        metadata.sign(KEYS[name], append=True)
    return metadata.to_bytes()


def root(version: int, rotated: frozenset[str]) -> bytes:
    payload = Root(version=version, consistent_snapshot=False)
    payload.add_key(KEYS["root"].public_key, "root")
    for role in ONLINE:
        payload.add_key(KEYS[key_of(role, rotated)].public_key, role)
    return signed(payload, "root")


def key_of(role: str, rotated: frozenset[str]) -> str:
    return f"{role}-new" if role in rotated else role


def state(versions: Mapping[str, int], rotated: frozenset[str]) -> dict[str, bytes]:
    """All files but root, each at its version."""
    team = KEYS[key_of("team", rotated)].public_key
    entry = DelegatedRole("team", [team.keyid], 1, False, paths=["*"])
    delegations = Delegations({team.keyid: team}, {"team": entry})
    listed = {f"{role}.json": MetaFile(versions[role]) for role in ("targets", "team")}
    payloads: dict[str, Payload] = {
        "team": Targets(version=versions["team"]),
        "targets": Targets(version=versions["targets"], delegations=delegations),
        "snapshot": Snapshot(version=versions["snapshot"], meta=listed),
        "timestamp": Timestamp(
            version=versions["timestamp"], snapshot_meta=MetaFile(versions["snapshot"])
        ),
    }
    return {f"{r}.json": signed(p, key_of(r, rotated)) for r, p in payloads.items()}


def meets(
    attacked: str, rotated: frozenset[str], recovered: int = RECOVERED, *, stolen: bool = True
) -> str:
    """What a client that cached the attack says to the recovery; "": it takes all of its files.

    Without the stolen key of a targets role a thief can only list a version that is not there.
    """
    first = root(1, NOTHING)
    attack = state({**dict.fromkeys(ROLES, ATTACKED), attacked: DRIVEN_UP}, NOTHING)
    if not stolen:
        del attack[f"{attacked}.json"]
    recovery = state(dict.fromkeys(ROLES, recovered), rotated)
    roots = {"1.root.json": first}
    with tempfile.TemporaryDirectory() as home:
        with nullcontext() if stolen else pytest.raises(DownloadHTTPError):
            update(home, first, {**roots, **attack})
        if rotated:
            roots["2.root.json"] = root(2, rotated)
        try:
            client = update(home, first, {**roots, **recovery})
        except RepositoryError as refusal:
            return f"{type(refusal).__name__}: {refusal}"
        held = client._trusted_set
        assert [held[role].version for role in ROLES] == [recovered] * len(ROLES)
        return ""


def update(home: str, first: bytes, files: Files) -> Updater:
    client = Updater(home, "http://none.invalid/", fetcher=Published(files), bootstrap=first)
    client.refresh()
    client.get_targetinfo("anything")
    return client


def every() -> list[frozenset[str]]:
    return [frozenset(s) for n in range(5) for s in itertools.combinations(ROLES, n)]


# The smallest sets of rotated roles that bring a role down again. A snapshot comes down with the
# timestamp key alone: clients compare what snapshots list, never their own versions, which is the
# timestamp's part (TUF 5.4.3.2, 5.5.5). keyd asks for the snapshot key as well: it was abused.
ENOUGH = {
    "timestamp": [{"timestamp"}],
    "snapshot": [{"timestamp"}],
    "targets": [{"snapshot"}],
    "team": [{"snapshot"}],
}


@pytest.mark.parametrize("attacked", ROLES)
def test_which_rotations_bring_a_client_down_again(attacked: str) -> None:
    found = [rotated for rotated in every() if not meets(attacked, rotated)]
    smallest = [s for s in found if not any(other < s for other in found)]
    assert smallest == ENOUGH[attacked]
    assert found == [s for s in every() if any(need <= s for need in ENOUGH[attacked])]


LOWER = "BadVersionNumberError: "
# What a client says to lower versions by the same keys, and to new keys of the role alone.
REFUSALS = {
    "timestamp": f"{LOWER}New timestamp version 3 must be >= 1000",
    "snapshot": f"{LOWER}New snapshot version must be >= 1000, got version 3",
    "targets": f"{LOWER}Expected targets.json version 3, got 1000.",
    "team": f"{LOWER}Expected team.json version 3, got 1000.",
}


@pytest.mark.parametrize("attacked", ROLES)
def test_new_versions_alone_are_refused(attacked: str) -> None:
    assert meets(attacked, NOTHING) == REFUSALS[attacked]
    own = meets(attacked, frozenset({attacked}))
    assert own == ("" if attacked == "timestamp" else REFUSALS[attacked])


@pytest.mark.parametrize("attacked", ROLES)
def test_files_from_before_are_refused(attacked: str) -> None:
    at = DRIVEN_UP if attacked == "timestamp" else ATTACKED
    restored = meets(attacked, NOTHING, ATTACKED - 1)
    assert restored == f"{LOWER}New timestamp version 1 must be >= {at}"


@pytest.mark.parametrize("attacked", ["targets", "team"])
def test_a_thief_without_the_key_does_as_much_harm(attacked: str) -> None:
    for rotated in every():
        said = meets(attacked, rotated, stolen=False)
        assert said == ("" if "snapshot" in rotated else REFUSALS[attacked])


def marked(files: Files, role: str, key: str) -> dict[str, bytes]:
    """The same files, one of them by somebody else."""
    name = f"{role}.json"
    metadata = Metadata[Any].from_bytes(files[name])
    metadata.signed.unrecognized_fields["x-by"] = "thief"
    return {**files, name: signed(metadata.signed, key)}


@pytest.mark.parametrize("role", ["targets", "team"])
@pytest.mark.parametrize("own", [False, True])
def test_a_file_of_a_lowered_version_is_kept_while_its_keys_stay(role: str, own: bool) -> None:
    """What RECOVERY_KEYS_STAY warns of: the version is all that this snapshot says of it."""
    first, rotated = root(1, NOTHING), frozenset({"snapshot", *([role] if own else [])})
    before = state({**dict.fromkeys(ROLES, ATTACKED), role: RECOVERED}, NOTHING)
    with tempfile.TemporaryDirectory() as home:
        update(home, first, {"1.root.json": first, **marked(before, role, role)})
        recovery = state(dict.fromkeys(ROLES, RECOVERED), rotated)
        client = update(home, first, {"2.root.json": root(2, rotated), **recovery})
    thief = "x-by" in client._trusted_set[role].unrecognized_fields
    assert thief is not own


@pytest.mark.parametrize("attacked", ROLES)
def test_a_plan_allows_nothing_that_leaves_clients_behind(attacked: str) -> None:
    """It asks for what TUF 5.3.11 speaks of, and that is enough."""
    asked = {"timestamp", "snapshot"} if attacked == "snapshot" else ENOUGH[attacked][0]
    allowed = [rotated for rotated in every() if is_allowed(attacked, rotated)]
    assert allowed == [rotated for rotated in every() if asked <= rotated]
    assert all(any(need <= rotated for need in ENOUGH[attacked]) for rotated in allowed)


def is_allowed(attacked: str, rotated: frozenset[str]) -> bool:
    changes = tuple(
        RoleChange(
            role,
            (NewKey(f"{role}-new", "elsewhere", KEYS[f"{role}-new"].public_key.to_dict()),),
            (fingerprint_of(KEYS[role].public_key.to_dict()),),
        )
        for role in sorted(rotated)
    )
    change = ChangeSet(RotationKind.FAST_FORWARD, "demo", changes, lower={attacked: RECOVERED})
    trusted = {"root": metadata_file.read(root(1, NOTHING)).payload}
    standing = Standing("demo", False, datetime.now(UTC), trusted, delegators={}, keys={})
    found = {finding.reason for finding in objections(change, standing, (attacked,))}
    return "FAST_FORWARD_INCOMPLETE" not in found
