"""What happened between two published roots: the plan it would have been here, and who signed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyd.domain.delegations import key_set
from keyd.domain.difference import Change, change
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.payload import Payload
from keyd.domain.public_keys import verify_metadata_signatures
from keyd.domain.rotation.between import change_between, standing_before
from keyd.domain.rotation.plan import Plan
from keyd.domain.rotation.planning import plan
from keyd.domain.rotation.standing import Standing
from keyd.domain.rules import judge
from keyd.domain.rules.expiry import trusted_expiry
from keyd.domain.trust import (
    Basis,
    Question,
    RepositoryState,
    RepositoryView,
    RoleView,
    default_rules,
)
from keyd.errors import Finding

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Count:
    """One list that a root needs, "old" or "new", and whose signatures under its ids are there."""

    which: str
    threshold: int
    signed: tuple[str, ...]
    missing: int


@dataclass(frozen=True)
class Explanation:
    """Two roots compared.

    `findings` are those of the plan, then what the rules say besides. The rules judge as on the
    day before the first of the two roots expires.
    """

    plan: Plan
    change: Change
    counts: tuple[Count, ...]
    findings: tuple[Finding, ...]


def explain(old: MetadataFile, new: MetadataFile, repository: str) -> Explanation:
    """The step from root `old` to root `new`, from the two files alone."""
    now = _time(old.payload, new.payload)
    standing = standing_before(old.payload, new.payload, repository, now)
    made = plan(change_between(old.payload, new.payload, repository), standing)
    difference = change(old.payload, new.payload)
    said = {finding.reason for finding in made.findings}
    ruled = _ruled(old.payload, new.payload, repository, now, difference)
    return Explanation(
        plan=made,
        change=difference,
        counts=tuple(_counts(old, new, standing)),
        findings=(*made.findings, *(f for f in ruled if f.reason not in said)),
    )


def _time(*payloads: Payload) -> datetime:
    found = [expiry for expiry in map(trusted_expiry, payloads) if expiry is not None]
    return min(found) - timedelta(days=1) if found else _LONG_AGO


def _ruled(
    old: Payload, new: Payload, repository: str, now: datetime, difference: Change
) -> tuple[Finding, ...]:
    """What the rules say in a repository that was registered from its published roots."""
    view = RepositoryView(
        name=repository,
        state=RepositoryState.ACTIVE,
        development=False,
        imported=True,
        role=RoleView("root", 0, old.signed["version"], default_rules("root")),
        basis=Basis(None, {}),
        trusted_root=old,
    )
    return judge(Question(new, now, None, difference.digest), view).findings


def _counts(old: MetadataFile, new: MetadataFile, standing: Standing) -> Iterator[Count]:
    """As clients count: a signature stands for the ids that a list has for its key, and no other.

    One vote for each key pair, however many ids it has.
    """
    for which, file in (("old", old), ("new", new)):
        keys = key_set(file.payload, "root", which)
        if keys is None:
            continue
        listed = {keyid: file.payload.signed["keys"][keyid] for keyid in keys.fingerprints}
        signed = verify_metadata_signatures(new.payload.raw, new.signatures, listed)
        facts = [standing.named(fp) for fp in dict.fromkeys(keys.fingerprints.values())]
        names = tuple(f"{k.label} ({k.holder})" for k in facts if k.fingerprint in signed)
        yield Count(which, keys.threshold, names, keys.missing(signed))
