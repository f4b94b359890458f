"""Whatever parses is judged: nothing is raised, and what passes keeps every promise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.domain.payload import Payload
from keyd.domain.rules import Judgement, judge
from keyd.domain.rules.expiry import exact_time
from keyd.domain.trust import Question, RepositoryView, SigningKey
from keyd.errors import InvalidRequest, Severity
from tests.unit.rules.world import (
    NOW,
    Signed,
    accepted,
    ask,
    bootstrap_view,
    delegating,
    delegation,
    fingerprint,
    keyid,
    known,
    payload,
    root,
    snapshot,
    successor_view,
    succinct,
    targets,
    timestamp,
    view,
)

BINS = delegating(
    3,
    *(
        delegation(f"bin-{number}", "d1", path_hash_prefixes=list(group))
        for number, group in enumerate(("01234567", "89abcdef"))
    ),
)
NAMED = delegating(2, delegation("one", "d1", paths=["a/*"]), delegation("two", "d1", paths=["*"]))
SEEDS = [
    root(1),
    root(2),
    targets(2, "a/b", "c"),
    NAMED,
    BINS,
    succinct(),
    snapshot(2, one=3),
    timestamp(2, 2),
]
POOL: list[Any] = [
    *(0, 1, 2, 3, -1, 7, 2**31, 2**53 - 1, True, False),
    *("", "a", "one", "root", "targets", "..", "a/../b", "1.0", "2.0.0", "soon", "0" * 64),
    *(keyid("r1"), keyid("d1"), "2031-01-01T00:00:00Z", "ecdsa-sha2-nistp256", "snapshot.json"),
    *([], {}, ["a"], ["0", "1"]),
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, member or index) in a document."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in list(members):
        yield value, step
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def bent(draw: st.DrawFn) -> Signed:
    """An honest payload with up to four values replaced, copied from elsewhere, or dropped."""
    signed = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        container, step = draw(st.sampled_from(list(places(signed))))
        action = draw(st.sampled_from(["replace", "copy", "drop", "repeat"]))
        if action == "replace":
            like = [value for value in POOL if type(value) is type(container[step])]
            container[step] = copy.deepcopy(draw(st.sampled_from(like)))
        elif action == "copy":
            other, there = draw(st.sampled_from(list(places(signed))))
            container[step] = copy.deepcopy(other[there])
        elif action == "drop":
            del container[step]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[step]))
    return signed


def parsed(signed: Signed) -> Payload | None:
    try:
        return payload(signed)
    except InvalidRequest:
        return None


def views(strange: Payload | None) -> Iterator[RepositoryView]:
    """Every role, with honest and with strange metadata already trusted."""
    delegators = (
        ("targets", payload(NAMED)),
        ("teams", payload(BINS)),
        ("bins", payload(succinct())),
    )
    yield bootstrap_view()
    for role in ("targets", "snapshot", "timestamp", "one", "bin-1", "bin-a"):
        yield view(role, delegators=delegators, ancestry={"teams": delegators})
    yield successor_view(imported=True)
    if strange is None:
        return
    kind = strange.signed["_type"]
    if kind == "root":
        yield successor_view(trusted_root=strange)
        yield view("targets", trusted_root=strange)
    elif kind == "targets":
        yield view("targets", trusted=strange, targets=strange)
        yield successor_view(targets=strange)
        yield view("one", delegators=(("targets", strange), ("teams", strange)))
    else:
        yield view(kind, trusted=strange, snapshot=strange)


@settings(max_examples=300)
@given(bent(), bent(), st.sampled_from([None, "r1", "t1", "d1", "s1", "ts1"]))
def test_whatever_parses_is_judged(new: Signed, old: Signed, key_name: str | None) -> None:
    candidate = parsed(new)
    if candidate is None:
        return
    key = SigningKey(key_name, fingerprint(key_name)) if key_name else None
    for about in views(parsed(old)):
        judgement = judge(Question(candidate, NOW, key), about)
        check_shape(judgement)
        if not judgement.refusals:
            check_promises(candidate, about, judgement, key)


def check_shape(judgement: Judgement) -> None:
    severities = [found.severity for found in judgement.findings]
    assert severities == sorted(severities, key=[Severity.REFUSE, Severity.WARN].index)
    malformed = [found.malformed for found in judgement.refusals]
    assert malformed == sorted(malformed, reverse=True)
    assert not any(found.malformed for found in judgement.warnings)
    for found in judgement.findings:
        assert found.reason.isupper()
        assert found.message
        assert "\n" not in found.message
        assert found.pointer == "" or found.pointer.startswith("/")


def check_promises(
    passed: Payload, about: RepositoryView, judgement: Judgement, key: SigningKey | None
) -> None:
    signed, rules = passed.signed, about.role.rules
    assert about.role.high_water < signed["version"] < 2**31
    expires = exact_time(signed["expires"])
    assert expires is not None
    assert NOW < expires <= NOW + timedelta(seconds=rules.expiry_max_s)
    assert judgement.required
    everybody = frozenset(
        fingerprint for keys in judgement.required for fingerprint in keys.fingerprints.values()
    )
    for keys in judgement.required:
        assert not keys.reached(frozenset())
        assert keys.reached(everybody) or about.role.name != "root"
    assert key is None or key.fingerprint in everybody


HONEST = [
    (root(1), bootstrap_view(), "r1"),
    (root(2), successor_view(), "r2"),
    (targets(2, "a/b", "c"), view("targets", high_water=1), "t1"),
    (NAMED, view("targets"), "t1"),
    (BINS, view("targets"), "t1"),
    (succinct(), view("targets"), "t1"),
    (
        snapshot(2, one=3),
        view("snapshot", known=known(accepted("targets", 1), accepted("one", 3))),
        "s1",
    ),
    (timestamp(2, 2), view("timestamp", known=known(accepted("snapshot", 2))), "ts1"),
]


@pytest.mark.parametrize(("signed", "about", "key_name"), HONEST)
def test_honest_payloads_pass(signed: Signed, about: RepositoryView, key_name: str) -> None:
    """The property above would hold for rules that refuse everything."""
    assert ask(signed, about, key_name).findings == ()
