"""What an officer reads of targets, snapshot and timestamp: every difference, no escape codes."""

from __future__ import annotations

from typing import Any

import pytest

from keyd.domain.difference import change
from keyd.domain.payload_changes import payload_changes
from tests.unit.rules.world import (
    Signed,
    delegating,
    delegation,
    in_days,
    payload,
    root,
    snapshot,
    target,
    targets,
    timestamp,
)


def lines(before: Signed | None, after: Signed) -> tuple[str, ...]:
    return payload_changes(payload(before) if before else None, payload(after))


def test_targets_added_removed_and_changed_with_length_and_hash() -> None:
    before, after = targets(1, "gone", "same", "other"), targets(2, "same", "other", "new")
    after["targets"]["other"] = target(b"something else")
    old, new = target(), target(b"something else")

    def facts(entry: dict[str, Any]) -> str:
        digest = entry["hashes"]["sha256"]
        return f'hashes={{"sha256": "{digest}"}} length={entry["length"]}'

    assert lines(before, after) == (
        "version: 1 -> 2",
        f"target removed: gone {facts(old)}",
        f"target added: new {facts(old)}",
        f"target changed: other {facts(old)} -> {facts(new)}",
    )


def test_delegations_and_their_order() -> None:
    one, two = delegation("one", "d1"), delegation("two", "d1")
    before, after = delegating(1, one, two), delegating(2, two, {**one, "terminating": True})
    found = lines(before, after)
    assert found[0] == "version: 1 -> 2"
    assert any(line.startswith("delegation changed: one ") for line in found)
    assert found[-1] == "delegations searched in another order: two, one"


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (snapshot(1, targets=1), snapshot(2, targets=3), "file changed: targets.json "),
        (timestamp(1, 1), timestamp(2, 2), "file changed: snapshot.json "),
        (None, timestamp(1, 1), "file added: snapshot.json "),
    ],
)
def test_meta_files(before: Signed | None, after: Signed, wanted: str) -> None:
    assert any(line.startswith(wanted) for line in lines(before, after))


def test_expiry_is_shown_and_nothing_changed_is_nothing() -> None:
    before = timestamp(1, 1)
    after = {**before, "expires": in_days(9)}
    assert lines(before, after) == (f'expires: "{before["expires"]}" -> "{in_days(9)}"',)
    assert lines(before, before) == ()


def test_a_root_reads_as_it_is_confirmed() -> None:
    before, after = payload(root(1)), payload(root(2, days=400))
    assert payload_changes(before, after) == change(before, after).lines


def test_nothing_but_printable_ascii_comes_out() -> None:
    after = targets(2, "büro", "a b", "x\u202eexe")
    for line in lines(targets(1), after):
        assert line.isascii()
        assert line.isprintable()
