"""Rehearsals tell whole releases from those that some client would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from keyd.domain.rehearsal import Act, Play, SignedFile
from keyd.domain.trust import KeySet
from keyd.rehearsal.stage import StockClients

Signers = Sequence[CryptoSigner]


def make(count: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


@dataclass
class Site:
    """A repository whose state two is a rotation of root and timestamp keys."""

    old_root: Signers = field(default_factory=lambda: make(3))
    new_root: Signers = field(default_factory=lambda: make(3))
    targets: Signers = field(default_factory=lambda: make(1))
    snapshot: Signers = field(default_factory=lambda: make(1))
    timestamp: Signers = field(default_factory=lambda: make(1))
    new_timestamp: Signers = field(default_factory=lambda: make(1))

    def root(self, version: int, keys: Signers, timestamp: Signers, signers: Signers) -> bytes:
        root = Root(version=version, expires=soon(), consistent_snapshot=True)
        for role, listed in (
            ("root", keys),
            ("targets", self.targets),
            ("snapshot", self.snapshot),
            ("timestamp", timestamp),
        ):
            for signer in listed:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = 2
        return sign(root, signers)

    def play(self) -> Play:
        first = self.root(1, self.old_root, self.timestamp, self.old_root)
        second = self.root(
            2, self.new_root, self.new_timestamp, [*self.old_root[:2], *self.new_root]
        )
        targets = sign(Targets(expires=soon()), self.targets)
        snapshot = sign(Snapshot(meta={"targets.json": meta(targets)}), self.snapshot)
        before = sign(Timestamp(snapshot_meta=meta(snapshot)), self.timestamp)
        after = sign(Timestamp(version=2, snapshot_meta=meta(snapshot)), self.new_timestamp)
        return Play(
            roots={1: first},
            before={"timestamp": before, "snapshot": snapshot, "targets": targets},
            unchanged={"snapshot": (1, snapshot), "targets": (1, targets)},
            released=(
                SignedFile(
                    "root",
                    2,
                    second,
                    (key_set("root:1", 2, self.old_root), key_set("root:2", 2, self.new_root)),
                ),
                SignedFile("timestamp", 2, after, (key_set("root:2", 1, self.new_timestamp),)),
            ),
        )


def soon() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


def sign(signed: Root | Snapshot | Targets | Timestamp, signers: Signers) -> bytes:
    signed.expires = soon()
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def meta(content: bytes) -> MetaFile:
    return MetaFile.from_data(1, content, ["sha256"])


def key_set(delegator: str, threshold: int, signers: Signers) -> KeySet:
    return KeySet(delegator, threshold, {s.public_key.keyid: s.public_key.keyid for s in signers})


def broken(acts: Sequence[Act]) -> list[str]:
    return [act.client for act in acts if not act.as_promised]


def test_a_whole_release_is_as_promised() -> None:
    acts = StockClients().rehearse(Site().play())
    assert broken(acts) == []
    assert sum(act.must_reach for act in acts) == 2
    assert sum(not act.must_reach for act in acts) == 3


def test_a_longer_chain_has_one_more_client() -> None:
    site = Site()
    play = site.play()
    between = site.root(2, site.old_root, site.timestamp, site.old_root)
    new = site.root(3, site.new_root, site.new_timestamp, [*site.old_root, *site.new_root])
    root = replace(play.released[0], version=3, content=new)
    play = replace(play, roots={**play.roots, 2: between}, released=(root, play.released[1]))
    acts = StockClients().rehearse(play)
    assert broken(acts) == []
    assert sum(act.must_reach for act in acts) == 3


@pytest.mark.parametrize("lacking", ["old", "new"])
def test_a_root_short_of_either_threshold_reaches_nobody(lacking: str) -> None:
    site = Site()
    signers = {
        "old": [*site.old_root[:1], *site.new_root],
        "new": [*site.old_root, *site.new_root[:1]],
    }[lacking]
    play = site.play()
    content = site.root(2, site.new_root, site.new_timestamp, signers)
    root = replace(play.released[0], content=content)
    acts = StockClients().rehearse(replace(play, released=(root, play.released[1])))
    assert not any(act.reached for act in acts)
    assert "root was signed by 1/2 keys" in acts[0].said


def test_a_release_without_the_new_timestamp_reaches_nobody() -> None:
    play = Site().play()
    stale = replace(
        play,
        released=play.released[:1],
        unchanged={**play.unchanged, "timestamp": (1, play.before["timestamp"])},
    )
    acts = StockClients().rehearse(stale)
    assert [act.reached for act in acts if act.must_reach] == [False, False]


def test_a_key_that_signs_beyond_the_claimed_threshold_is_found_out() -> None:
    """The lists say 2, the root that clients know says 1: the refusal does not come."""
    site = Site()
    play = site.play()
    first = Metadata[Root].from_bytes(play.roots[1])
    first.signed.roles["root"].threshold = 1
    weak = sign(first.signed, site.old_root)
    acts = StockClients().rehearse(replace(play, roots={1: weak}))
    assert any("by root:1" in client for client in broken(acts))


def test_a_published_file_that_nobody_can_write_again_ends_the_visit() -> None:
    play = Site().play()
    unknown = replace(play, unchanged={**play.unchanged, "targets": (1, None)})
    assert broken(StockClients().rehearse(unknown)) == []


def test_delegated_roles_are_visited() -> None:
    site = Site()
    key, other = make(2)
    team = SignedFile("team", 2, b"", (key_set("targets:2", 1, [key]),), ("targets",))
    for signer, good in ((key, True), (other, False)):
        play = delegating(site, key, signer, team)
        assert (broken(StockClients().rehearse(play)) == []) is good


def delegating(site: Site, key: CryptoSigner, signer: CryptoSigner, team: SignedFile) -> Play:
    from tuf.api.metadata import DelegatedRole, Delegations

    play = site.play()
    targets = Targets(version=2, expires=soon())
    role = DelegatedRole("team", [key.public_key.keyid], 1, False, paths=["team/*"])
    targets.delegations = Delegations({key.public_key.keyid: key.public_key}, {"team": role})
    targets_file = sign(targets, site.targets)
    team_file = sign(Targets(version=2), [signer])
    listed = {
        "targets.json": MetaFile.from_data(2, targets_file, ["sha256"]),
        "team.json": MetaFile(2),
    }
    snapshot = sign(Snapshot(version=2, meta=listed), site.snapshot)
    pointing = Timestamp(version=2, snapshot_meta=MetaFile.from_data(2, snapshot, ["sha256"]))
    return replace(
        play,
        unchanged={},
        released=(
            SignedFile("targets", 2, targets_file, (key_set("root:1", 1, site.targets),)),
            replace(team, content=team_file),
            SignedFile("snapshot", 2, snapshot, (key_set("root:1", 1, site.snapshot),)),
            SignedFile(
                "timestamp", 2, sign(pointing, site.timestamp), (key_set("r", 1, site.timestamp),)
            ),
        ),
    )
