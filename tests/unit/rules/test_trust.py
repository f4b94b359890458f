"""Plain facts about the data that rules work on."""

from __future__ import annotations

import pytest

from keyd.domain.trust import KeySet, RoleRules, default_rules
from tests.unit.rules.world import view

DAY_S = 86_400


@pytest.mark.parametrize(
    ("role", "cap", "file_limit"),
    [
        ("root", 384_000, 512_000),
        ("targets", 3_750_000, 5_000_000),
        ("snapshot", 1_500_000, 2_000_000),
        ("timestamp", 12_288, 16_384),
        ("anything else", 3_750_000, 5_000_000),
    ],
)
def test_payload_caps_are_three_quarters_of_what_clients_read(
    role: str, cap: int, file_limit: int
) -> None:
    assert default_rules(role).payload_max_bytes == cap == file_limit * 3 // 4


@pytest.mark.parametrize(
    ("role", "longest_days"),
    [("root", 400), ("targets", 400), ("snapshot", 3660), ("timestamp", 31), ("bin-0", 400)],
)
def test_windows(role: str, longest_days: int) -> None:
    rules = default_rules(role)
    assert rules.expiry_max_s == longest_days * DAY_S
    assert 0 < rules.expiry_min_s < rules.expiry_max_s


def test_only_root_must_have_two_and_a_spare() -> None:
    assert default_rules("root").threshold_floor == 2
    assert default_rules("root").require_spare_key
    for role in ("targets", "snapshot", "timestamp", "any"):
        assert default_rules(role).threshold_floor == 1
        assert not default_rules(role).require_spare_key


def test_nothing_is_allowed_by_default() -> None:
    for role in ("root", "targets", "snapshot", "timestamp"):
        rules = default_rules(role)
        assert not rules.allow_expired_trusted_root
        assert not rules.allow_shorter_root_expiry
        assert not rules.allow_online_key_in_offline_role


def test_rules_in_force() -> None:
    own, other = RoleRules(threshold_floor=7), RoleRules(threshold_floor=8)
    about = view("targets", rules=own, role_rules={"projects": other})
    assert about.rules_of("targets") is own
    assert about.rules_of("projects") is other
    assert about.rules_of("root") == default_rules("root")


def test_votes_count_by_material() -> None:
    twins = KeySet("root:1", 2, {"one": "aa", "two": "aa", "three": "bb"})
    assert twins.missing(frozenset()) == 2
    assert twins.missing(frozenset(["aa", "other"])) == 1
    assert twins.reached(frozenset(["aa", "bb"]))


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_is_never_reached(threshold: int) -> None:
    open_door = KeySet("root:1", threshold, {"one": "aa"})
    assert not open_door.reached(frozenset())
    assert not open_door.reached(frozenset(["aa"]))
