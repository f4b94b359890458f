"""Rules S1 to S5, C2, G5 and G6 for snapshot."""

from __future__ import annotations

from typing import Any

import pytest

from keyd.domain.rules import references
from keyd.domain.trust import FileFacts, KnownVersion
from tests.unit.rules.world import (
    Bend,
    Signed,
    accepted,
    ask,
    drop,
    known,
    payload,
    put,
    refusals,
    root,
    snapshot,
    targets,
    view,
    warnings,
)

ENTRY = "/meta/targets.json"
RECORDED = known(*(accepted("targets", n) for n in (1, 2, 3)), accepted("projects", 1))


def test_s1_targets_is_listed() -> None:
    assert refusals(ask(snapshot(), view("snapshot"), bend=drop(ENTRY))) == [
        "TARGETS_ENTRY_MISSING"
    ]


@pytest.mark.parametrize(
    ("trusted", "new", "lowered", "expected"),
    [
        (snapshot(1, targets=2), snapshot(2, targets=2), (), []),
        (snapshot(1, targets=2), snapshot(2, targets=3), (), []),
        (snapshot(1, targets=2), snapshot(2, targets=1), (), ["SNAPSHOT_ENTRY_DECREASED"]),
        (snapshot(1, targets=2), snapshot(2, targets=1), ("targets",), []),
        (
            snapshot(1, targets=2, projects=2),
            snapshot(2, targets=1, projects=1),
            ("projects", "snapshot", "timestamp"),
            ["SNAPSHOT_ENTRY_DECREASED"],
        ),
        (snapshot(1, projects=1), snapshot(2), (), ["SNAPSHOT_ENTRY_REMOVED"]),
        (snapshot(1, projects=1), snapshot(2), ("projects",), ["SNAPSHOT_ENTRY_REMOVED"]),
        (snapshot(1), snapshot(2, projects=1), (), []),
    ],
)
def test_s2_s3_nothing_is_forgotten_or_rolled_back(
    trusted: Signed, new: Signed, lowered: tuple[str, ...], expected: Any
) -> None:
    about = view(
        "snapshot",
        high_water=1,
        snapshot=payload(trusted),
        known=RECORDED,
        lowered=frozenset(lowered),
    )
    assert refusals(ask(new, about)) == expected


@pytest.mark.parametrize(
    ("trusted", "new", "expected"),
    [
        (1, snapshot(3, targets=2, projects=1), []),
        (1, snapshot(3, targets=1, projects=1), ["SNAPSHOT_ENTRY_DECREASED"]),
        (1, snapshot(3, targets=2), ["SNAPSHOT_ENTRY_REMOVED"]),
        (3, snapshot(3, targets=3, projects=1), []),
        (3, snapshot(3, targets=2, projects=1), ["SNAPSHOT_ENTRY_DECREASED"]),
    ],
)
def test_s2_s3_clients_may_see_what_waits_first(trusted: int, new: Signed, expected: Any) -> None:
    about = view(
        "snapshot",
        high_water=2,
        snapshot=payload(snapshot(1, targets=trusted)),
        pending=payload(snapshot(2, targets=2, projects=1)),
        known=RECORDED,
    )
    assert refusals(ask(new, about)) == expected


@pytest.mark.parametrize(
    ("targets_version", "expected"),
    [
        (accepted("targets", 1), []),
        (KnownVersion("targets", 1, "ab" * 32, accepted=False), ["SIGNING_ORDER_WRONG"]),
        (accepted("targets", 2), ["TARGETS_METADATA_UNKNOWN"]),
    ],
)
def test_s4_new_entries_are_recorded_and_accepted(
    targets_version: KnownVersion, expected: Any
) -> None:
    assert refusals(ask(snapshot(), view("snapshot", known=known(targets_version)))) == expected


def test_s4_unchanged_entries_may_be_retired() -> None:
    trusted = payload(snapshot(1, retired=9))
    about = view("snapshot", high_water=1, snapshot=trusted)
    assert refusals(ask(snapshot(2, retired=9), about)) == []
    assert refusals(ask(snapshot(2, retired=10), about)) == ["TARGETS_METADATA_UNKNOWN"]
    assert references(payload(snapshot(2, retired=9)), trusted) == ()
    assert references(payload(snapshot(2, retired=10)), trusted) == (("retired", 10),)


def test_s4_length_and_hashes_are_the_files() -> None:
    file = FileFacts(10, {"sha256": "0a" * 32})
    about = view("snapshot", known=known(accepted("targets", 1, file=file)))
    wrong = {"version": 1, "length": 11, "hashes": {"sha256": "0b" * 32}}
    judgement = ask(snapshot(), about, bend=put(ENTRY, wrong))
    assert refusals(judgement) == ["TARGETS_REFERENCE_MISMATCH"] * 2
    right = {"version": 1, "length": 10, "hashes": {"sha256": "0a" * 32}}
    assert ask(snapshot(), about, bend=put(ENTRY, right)).findings == ()


@pytest.mark.parametrize(
    ("entry", "refused", "warned"),
    [
        ({"version": 1}, ["UNHASHED_ENTRY_UNTRACKED"], []),
        ({"version": 1, "length": 3}, ["UNHASHED_ENTRY_UNTRACKED"], ["HASHES_UNCHECKED"]),
        ({"version": 1, "hashes": {"sha256": "0a" * 32}}, [], ["HASHES_UNCHECKED"]),
    ],
)
def test_s5_a_version_known_only_by_name_needs_hashes(
    entry: dict[str, Any], refused: list[str], warned: list[str]
) -> None:
    about = view("snapshot", known=known(accepted("targets", 1, digest="")))
    judgement = ask(snapshot(), about, bend=put(ENTRY, entry))
    assert (refusals(judgement), warnings(judgement)) == (refused, warned)


@pytest.mark.parametrize(
    ("role", "version", "expected"),
    [
        ("packages.example.org", 3, None),
        ("2.5", 3, None),
        ("bin-0a", 3, None),
        ("a" * 239, 3, None),
        ("a" * 240, 3, "ROLE_NAME_UNSAFE"),
        ("å" * 120, 3, "ROLE_NAME_UNSAFE"),
        ("../targets", 3, "ROLE_NAME_UNSAFE"),
        ("a/b", 3, "ROLE_NAME_UNSAFE"),
        ("a\\b", 3, "ROLE_NAME_UNSAFE"),
        ("", 3, "ROLE_NAME_UNSAFE"),
        ("1.targets", 3, "VERSIONED_REFERENCE"),
        ("3.projects", 3, "VERSIONED_REFERENCE"),
        ("03.projects", 3, "VERSIONED_REFERENCE"),
        (f"{'0f' * 32}.projects", 3, "VERSIONED_REFERENCE"),
        (f"{'0f' * 64}.projects", 3, "VERSIONED_REFERENCE"),
    ],
)
def test_g5_g6_entries_are_plain_safe_file_names(role: str, version: int, expected: Any) -> None:
    about = view("snapshot", known=known(accepted("targets", 1), accepted(role, version)))
    judgement = ask(snapshot(), about, bend=put_entry(f"{role}.json", version))
    assert refusals(judgement) == ([expected] if expected else [])


def put_entry(name: str, version: int) -> Bend:
    return lambda signed: signed["meta"].__setitem__(name, {"version": version})


def test_g5_an_entry_without_suffix_is_no_file_name() -> None:
    about = view("snapshot", known=known(accepted("targets", 1), accepted("root", 1)))
    judgement = ask(snapshot(), about, bend=put_entry("root", 1))
    assert refusals(judgement) == ["ROLE_NAME_UNSAFE"]


def test_references_of_other_types_are_none() -> None:
    assert references(payload(targets())) == ()
    assert references(payload(root())) == ()


def test_a_hostile_payload_does_not_choose_the_size_of_its_refusal() -> None:
    many = snapshot(1, **{f"r{number}": 1 for number in range(200)})
    assert len(ask(many, view("snapshot")).findings) == 50
