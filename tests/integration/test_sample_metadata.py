"""Every published sample file against the rules: refused for what the manifest says, no more.

`tests/vectors/sample_manifest.toml` says what to expect of each file. The strict reader takes the
file's own text, so that it finds members that stand twice: once decoded, the first would be gone.
What is judged is the canonical form of its `signed`, because published files are not canonical.
Each file is judged as if it were to be signed again for a registered repository, one day before it
expires, right after its predecessor.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from keyd.domain import metadata_file
from keyd.domain.delegations import key_set, key_table
from keyd.domain.difference import change
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.payload import Payload, parse
from keyd.domain.public_keys import verify_metadata_signatures
from keyd.domain.rules import Judgement, judge, references
from keyd.domain.rules.expiry import trusted_expiry
from keyd.domain.trust import (
    Basis,
    KnownVersion,
    Question,
    RepositoryState,
    RepositoryView,
    RoleView,
    SigningKey,
    default_rules,
    type_of_role,
)
from keyd.errors import InvalidRequest

MANIFEST = Path(__file__).parents[1] / "vectors" / "sample_manifest.toml"


@dataclass(frozen=True)
class Sample:
    """One file of the manifest; see the head of the manifest for its fields."""

    path: str
    role: str
    unreadable: str = ""
    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    trusted_root: str = ""
    delegator: str = ""
    high_water: int | None = None
    rules: tuple[tuple[str, Any], ...] = ()


@cache
def manifest() -> tuple[Sample, ...]:
    return tuple(
        Sample(**{name: _frozen(value) for name, value in entry.items() if name != "why"})
        for entry in tomllib.loads(MANIFEST.read_text())["file"]
    )


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


@pytest.fixture(scope="session")
def samples(shared_data: Path) -> Path:
    return shared_data / "tuf"


def read(samples: Path, path: str) -> MetadataFile:
    return metadata_file.read((samples / path).read_bytes())


def known(samples: Path, path: str, payload: Payload) -> dict[tuple[str, int], KnownVersion]:
    """What the payload refers to is recorded and accepted, with facts of files that we have."""
    folder = (samples / path).parent
    found = {}
    for role, version in references(payload):
        facts = None
        for name in (f"{version}.{role}.json", f"{role}.json"):
            if (folder / name).is_file():
                facts = metadata_file.facts_of((folder / name).read_bytes())
        found[role, version] = KnownVersion(role, version, "ab" * 32, accepted=True, file=facts)
    return found


def view_of(samples: Path, sample: Sample, payload: Payload) -> RepositoryView:
    """A registered repository that has got as far as this file's predecessor."""
    version = payload.signed["version"]
    root = read(samples, sample.trusted_root).payload if sample.trusted_root else None
    anchor = sample.role == "root" and root is None
    delegators = (("targets", read(samples, sample.delegator).payload),) if sample.delegator else ()
    return RepositoryView(
        name="sample",
        state=RepositoryState.BOOTSTRAP if anchor else RepositoryState.ACTIVE,
        development=False,
        imported=True,
        role=RoleView(
            name=sample.role,
            epoch=0,
            high_water=version - 1 if sample.high_water is None else sample.high_water,
            rules=replace(default_rules(sample.role), **dict(sample.rules)),
            delegators=delegators,
        ),
        basis=Basis(None, {}),
        # A registration trusts its first root by its own word.
        bootstrap=key_set(payload, "root", "registration") if anchor else None,
        trusted_root=root,
        known=known(samples, sample.path, payload),
    )


def judge_sample(
    samples: Path, sample: Sample, now: datetime, key: SigningKey | None = None
) -> Judgement:
    found = read(samples, sample.path).payload
    # Once more as a request would send it, under the caps of the role.
    rules = default_rules(sample.role)
    payload = parse(
        found.raw, role_type=type_of_role(sample.role), max_bytes=rules.payload_max_bytes
    )
    about = view_of(samples, sample, payload)
    confirmed = change(about.trusted_root, payload).digest if sample.role == "root" else ""
    return judge(Question(payload, now, key, confirmed), about)


def day_before_expiry(samples: Path, path: str) -> datetime:
    expiry = trusted_expiry(read(samples, path).payload)
    assert expiry is not None
    return expiry - timedelta(days=1)


def test_the_manifest_names_every_file(samples: Path) -> None:
    files = sorted(str(path.relative_to(samples)) for path in samples.rglob("*.json"))
    assert sorted(sample.path for sample in manifest()) == files


@pytest.mark.parametrize("sample", manifest(), ids=lambda sample: sample.path)
def test_sample(samples: Path, sample: Sample) -> None:
    if sample.unreadable:
        with pytest.raises(InvalidRequest) as refused:
            read(samples, sample.path)
        assert refused.value.reason == sample.unreadable
        return
    judgement = judge_sample(samples, sample, day_before_expiry(samples, sample.path))
    assert {found.reason for found in judgement.refusals} == set(sample.refused)
    assert {found.reason for found in judgement.warnings} == set(sample.warned)


def chains() -> list[Sample]:
    return [sample for sample in manifest() if sample.role == "root" and sample.trusted_root]


@pytest.mark.parametrize("sample", chains(), ids=lambda sample: sample.path)
def test_roots_follow_in_time_without_any_override(samples: Path, sample: Sample) -> None:
    """With the clock before the predecessor's expiry nobody has to allow an expired root."""
    now = min(day_before_expiry(samples, path) for path in (sample.path, sample.trusted_root))
    judgement = judge_sample(samples, replace(sample, rules=()), now)
    assert "TRUSTED_ROOT_EXPIRED" not in {found.reason for found in judgement.findings}
    late = day_before_expiry(samples, sample.path)
    if "TRUSTED_ROOT_EXPIRED" in sample.warned:
        strict = judge_sample(samples, replace(sample, rules=()), late)
        assert "TRUSTED_ROOT_EXPIRED" in {found.reason for found in strict.refusals}


# Signatures that python-tuf verifies as well (SOURCES.md of the samples); the others have
# placeholders, hex keys, or no signatures at all.
VERIFIABLE = [
    *(f"sigstore-root-signing/root_history/{number}.root.json" for number in range(6, 16)),
    *(f"sigstore-staging/root_history/{number}.root.json" for number in range(2, 15)),
    "tough-tests/rotated-root/2.root.json",
]


# python-tuf reads keytypes that are named like schemes, and complains.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:securesystemslib")
@pytest.mark.parametrize("sample", chains(), ids=lambda sample: sample.path)
def test_required_key_sets_are_what_the_published_signatures_reach(
    samples: Path, sample: Sample
) -> None:
    file = read(samples, sample.path)
    old = read(samples, sample.trusted_root).payload
    judgement = judge_sample(samples, sample, day_before_expiry(samples, sample.path))
    objects = {**old.signed["keys"], **file.payload.signed["keys"]}
    signed = verify_metadata_signatures(file.payload.raw, file.signatures, objects)
    reached = [keys.reached(signed) for keys in judgement.required]
    assert len(reached) == 2
    assert all(reached) == python_tuf_agrees(samples, sample)
    assert all(reached) or sample.path not in VERIFIABLE


def python_tuf_agrees(samples: Path, sample: Sample) -> bool:
    try:
        old, new = (
            Metadata[Root].from_file(str(samples / path))
            for path in (sample.trusted_root, sample.path)
        )
        return bool(
            new.signed.get_root_verification_result(old.signed, new.signed_bytes, new.signatures)
        )
    except DeserializationError:
        return False


@pytest.mark.parametrize("sample", chains(), ids=lambda sample: sample.path)
def test_every_published_signer_is_a_key_of_the_role(samples: Path, sample: Sample) -> None:
    """A6 accepts keys of the old and of the new list: published rotations need both."""
    file = read(samples, sample.path)
    old = read(samples, sample.trusted_root).payload
    tables = [key_table(payload).fingerprints for payload in (old, file.payload)]
    now = day_before_expiry(samples, sample.path)
    for keyid, _ in file.signatures:
        for table in tables:
            if keyid in table:
                key = SigningKey("signer", table[keyid])
                judgement = judge_sample(samples, sample, now, key)
                assert "KEY_NOT_IN_ROLE" not in {found.reason for found in judgement.refusals}


def test_unix_time_as_version_needs_a_rule(samples: Path) -> None:
    """By default such a step is refused: see version_step_max in docs/reference/rules.md."""
    unix = [sample for sample in manifest() if sample.high_water is not None]
    assert len(unix) == 2
    for sample in unix:
        now = day_before_expiry(samples, sample.path)
        judgement = judge_sample(samples, replace(sample, rules=()), now)
        assert [found.reason for found in judgement.refusals] == ["VERSION_STEP_TOO_LARGE"]
