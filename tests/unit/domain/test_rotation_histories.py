"""Roots that real ceremonies made, each as the plan that keyd would have shown for it.

Where keyd says something about a step, `why` explains it. The oracle is python-tuf, for every root
that it can read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, RootVerificationResult

from keyd.domain import metadata_file
from keyd.domain.delegations import key_set, key_table
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.public_keys import fingerprint_of
from keyd.domain.rotation.building import ListChange, build_root, bump
from keyd.domain.rotation.changes import RoleChange
from keyd.domain.rotation.explaining import Explanation, explain
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import Severity

PRODUCTION = "sigstore-root-signing/root_history"
STAGING = "sigstore-staging/root_history"
TOUGH = "tough-tests/rotated-root"
TUF_ON_CI = "tuf-on-ci-expected"

RENEWED = ""
LOW = ("NO_SPARE_KEY", "THRESHOLD_BELOW_FLOOR")
POINTS = (
    "EXPIRES_MALFORMED!",
    "KEY_UNDECODABLE!",
    "NEW_THRESHOLD_UNREACHABLE!",
    "OLD_THRESHOLD_UNREACHABLE!",
)
BARE = "Elliptic points in hex: nothing decodes these keys any more, so that none counts."
SAMPLE = "A sample of payloads: its signatures are the text XXX."


@dataclass(frozen=True)
class Step:
    """One root and the one before it.

    `changed`: per role, keys that came (+), went (-), stayed under another id (=), and a new
    threshold. `signed`: how many of the old and of the new list. `said`: what keyd would have
    said, refusals with "!".
    """

    folder: str
    version: int
    changed: str
    signed: tuple[int, int]
    said: tuple[str, ...] = ()
    why: str = ""
    oracle: bool = True

    def __str__(self) -> str:
        return f"{self.folder.removesuffix('/root_history')} {self.version}"


ALL_STAY = "root =5; targets =5; snapshot =1; timestamp =1"
STEPS = (
    Step(
        PRODUCTION,
        2,
        "snapshot threshold 1; timestamp threshold 1",
        (0, 0),
        POINTS,
        BARE,
        oracle=False,
    ),
    Step(PRODUCTION, 3, RENEWED, (0, 0), POINTS, BARE, oracle=False),
    Step(PRODUCTION, 4, RENEWED, (0, 0), POINTS[1:], BARE, oracle=False),
    Step(
        PRODUCTION,
        5,
        "root +5; targets +5; snapshot +1; timestamp +1",
        (0, 4),
        POINTS[3:],
        "The same keys in PEM, for which root 4 cannot speak: chains begin with root 5.",
        oracle=False,
    ),
    Step(PRODUCTION, 6, RENEWED, (5, 5)),
    Step(PRODUCTION, 7, RENEWED, (4, 4)),
    Step(PRODUCTION, 8, RENEWED, (4, 4)),
    Step(
        PRODUCTION,
        9,
        ALL_STAY,
        (5, 5),
        ("KEY_LEAVES_AND_ENTERS",),
        "Keytype `ecdsa`: five hardware keys, five new ids, ten signatures.",
    ),
    Step(
        PRODUCTION,
        10,
        "root =5; targets =5; snapshot +1 -1; timestamp =1",
        (5, 5),
        ("KEY_LEAVES_AND_ENTERS",),
        "Owners are named: new ids again, ten signatures. The timestamp key signs snapshots too.",
    ),
    Step(
        PRODUCTION,
        11,
        RENEWED,
        (5, 5),
        ("KEYID_INCORRECT",),
        "The URI member of the online key was edited, its id kept.",
    ),
    Step(
        PRODUCTION,
        12,
        "snapshot =1; timestamp =1",
        (3, 3),
        ("KEY_LEAVES_AND_ENTERS",),
        "The id of the online key follows its edited object.",
    ),
    Step(PRODUCTION, 13, "root +1 -1; targets +1 -1", (4, 5)),
    Step(PRODUCTION, 14, RENEWED, (4, 4)),
    Step(PRODUCTION, 15, RENEWED, (5, 5)),
    Step(
        STAGING,
        2,
        RENEWED,
        (1, 1),
        ("EXPIRY_OUT_OF_WINDOW!", *LOW),
        "One key, and four years: staging had no floors.",
    ),
    Step(STAGING, 3, RENEWED, (1, 1), LOW, "One key still."),
    Step(STAGING, 4, RENEWED, (1, 1), LOW, "One key still."),
    Step(
        STAGING,
        5,
        "root +1; targets +1 -1; snapshot +1 -1; timestamp +1 -1",
        (1, 2),
        ("EXPIRY_OUT_OF_WINDOW!", "KEYID_INCORRECT", "THRESHOLD_BELOW_FLOOR"),
        "A second key, another online key, and ten years; ids from before an edit of the objects.",
    ),
    Step(STAGING, 6, "root +3 -1 threshold 2; targets +3", (1, 4)),
    Step(
        STAGING,
        7,
        RENEWED,
        (4, 4),
        ("ROOT_EXPIRY_SHORTENED",),
        "Ten years became four months: an honest correction.",
    ),
    Step(STAGING, 8, RENEWED, (4, 4)),
    Step(
        STAGING,
        9,
        "root =4; targets =4; snapshot =1; timestamp =1",
        (3, 3),
        ("KEY_LEAVES_AND_ENTERS",),
        "Ids by the whole object: three people sign once each, under two ids.",
    ),
    *(Step(STAGING, version, RENEWED, (2, 2)) for version in range(10, 15)),
    Step(
        TOUGH,
        2,
        "root +1 -1; targets +1 -1; snapshot +1 -1; timestamp +1 -1",
        (1, 1),
        ("EXPIRY_OUT_OF_WINDOW!", "ONLINE_KEY_IN_OFFLINE_ROLE", *LOW),
        "One key for everything, from 1998 to 2029.",
    ),
    Step(f"{TUF_ON_CI}/root-key-rotation/metadata", 2, "root +1 -1", (0, 0), LOW, SAMPLE),
    Step(f"{TUF_ON_CI}/signing-event-creation/metadata", 2, RENEWED, (0, 0), LOW, SAMPLE),
    Step(f"{TUF_ON_CI}/multi-user-signing/metadata", 2, RENEWED, (0, 0), LOW, SAMPLE),
)
ORACLE = [step for step in STEPS if step.oracle]
# python-tuf reads keytypes that are named like schemes, and complains.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:securesystemslib")


@pytest.fixture(scope="session")
def samples(shared_data: Path) -> Path:
    return shared_data / "tuf"


@cache
def content(samples: Path, folder: str, version: int) -> bytes:
    return (samples / folder / f"{version}.root.json").read_bytes()


def pair(samples: Path, step: Step) -> tuple[MetadataFile, MetadataFile]:
    before, after = (content(samples, step.folder, v) for v in (step.version - 1, step.version))
    return metadata_file.read(before), metadata_file.read(after)


def explained(samples: Path, step: Step) -> Explanation:
    return explain(*pair(samples, step), "published")


def materials(change: RoleChange) -> tuple[set[str], set[str]]:
    return {fingerprint_of(key.key_object or {}) for key in change.add}, set(change.remove)


def words(change: RoleChange) -> str:
    add, remove = materials(change)
    parts = (("+", add - remove), ("-", remove - add), ("=", add & remove))
    counts = [f"{sign}{len(keys)}" for sign, keys in parts if keys]
    threshold = [f"threshold {change.threshold}"] if change.threshold else []
    return " ".join([change.role, *counts, *threshold])


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_plan_is_what_was_done_or_the_difference_is_explained(
    samples: Path, step: Step
) -> None:
    found = explained(samples, step)
    assert "; ".join(map(words, found.plan.change.changes)) == step.changed
    assert tuple(len(count.signed) for count in found.counts) == step.signed
    said = {f.reason + "!" * (f.severity is Severity.REFUSE) for f in found.findings}
    assert said == set(step.said)
    assert bool(step.said) <= bool(step.why)


def test_no_root_is_forgotten(samples: Path) -> None:
    """Every root of a folder that has the one before it as well."""
    roots = {
        (str(path.parent.relative_to(samples)), int(path.name.split(".")[0]))
        for path in samples.rglob("*.root.json")
    }
    followers = {(folder, n) for folder, n in roots if (folder, n - 1) in roots}
    assert followers == {(step.folder, step.version) for step in STEPS}


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_planned_root_lists_the_keys_that_were_listed(samples: Path, step: Step) -> None:
    """The plan's change, carried out on the old root, gives the lists of the new one."""
    old, new = pair(samples, step)
    table = key_table(new.payload).fingerprints
    changes = {}
    for change in explained(samples, step).plan.change.changes:
        add, remove = materials(change)
        listed = new.payload.signed["roles"][change.role]["keyids"]
        entering = tuple((k, new.payload.signed["keys"][k]) for k in listed if table.get(k) in add)
        changes[change.role] = ListChange(entering, frozenset(remove), change.threshold)
    bumped = bump(old.payload, step.version, new.payload.signed["expires"])
    built = build_root(old.payload, bumped, changes)["roles"]
    known = {**key_table(old.payload).fingerprints, **table}
    for role in TOP_LEVEL:
        wanted = new.payload.signed["roles"][role]
        assert built[role]["threshold"] == wanted["threshold"]
        usable = {keyid for keyid in built[role]["keyids"] if keyid in known}
        assert usable == {keyid for keyid in wanted["keyids"] if keyid in known}


def oracle(samples: Path, step: Step, file: bytes) -> RootVerificationResult:
    """What python-tuf says of a root against the one before it."""
    old: Metadata[Root] = Metadata.from_bytes(content(samples, step.folder, step.version - 1))
    new: Metadata[Root] = Metadata.from_bytes(file)
    return new.signed.get_root_verification_result(old.signed, new.signed_bytes, new.signatures)


@pytest.mark.parametrize("step", ORACLE, ids=str)
def test_who_had_to_sign_and_who_did_is_what_python_tuf_says(samples: Path, step: Step) -> None:
    found = explained(samples, step)
    result = oracle(samples, step, content(samples, step.folder, step.version))
    signed = [need for need in found.plan.needs if found.plan.steps[need.step].subject == "root"]
    assert [need.which for need in signed] == ["old", "new"]
    for need, count, theirs in zip(
        signed, found.counts, (result.first, result.second), strict=True
    ):
        assert need.threshold == count.threshold == theirs.threshold
        assert len(need.keys) == len(theirs.signed) + len(theirs.unsigned)
        prefixes = {fingerprint_of(key.to_dict())[:12] for key in theirs.signed.values()}
        assert {name.split()[0] for name in count.signed} == prefixes
        assert set(count.signed) <= set(need.keys)
        assert count.missing == theirs.missing


def without(file: bytes, dropped: set[str]) -> bytes:
    document = json.loads(file)
    kept = [one for one in document["signatures"] if one["keyid"] not in dropped]
    return json.dumps({**document, "signatures": kept}).encode()


def signers(old: MetadataFile, new: MetadataFile) -> Iterator[set[str]]:
    """The key ids of each hardware key that signed."""
    by_key: dict[str, set[str]] = {}
    for file in (old, new):
        keys = key_set(file.payload, "root", "")
        for keyid, fingerprint in keys.fingerprints.items() if keys else ():
            by_key.setdefault(fingerprint, set()).add(keyid)
    present = {keyid for keyid, _ in new.signatures}
    return (keyids for keyids in by_key.values() if keyids & present)


@pytest.mark.parametrize("step", [step for step in ORACLE if all(step.signed)], ids=str)
def test_what_the_plan_asks_for_is_enough_and_no_more_than_needed(
    samples: Path, step: Step
) -> None:
    """Signers are left out one by one, as long as the plan is met; then each one is needed."""
    old, new = pair(samples, step)
    file = content(samples, step.folder, step.version)
    needed: list[set[str]] = list(signers(old, new))
    for keyids in list(needed):
        fewer = without(file, keyids)
        if not any(c.missing for c in explain(old, metadata_file.read(fewer), "").counts):
            file = fewer
            needed.remove(keyids)
    assert oracle(samples, step, file)
    assert len(needed) >= max(c.threshold for c in explained(samples, step).counts)
    for keyids in needed:
        short = without(file, keyids)
        assert not oracle(samples, step, short)
        assert any(c.missing for c in explain(old, metadata_file.read(short), "").counts)
