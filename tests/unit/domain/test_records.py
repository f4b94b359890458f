"""Records are changed by making others of them."""

from __future__ import annotations

from dataclasses import replace

from keyd.domain.records import Role, altered


def test_an_altered_record_is_the_one_that_replace_makes() -> None:
    role = Role("demo", "targets", high_water=3, trusted_digest="0" * 64)
    other = altered(role, high_water=4, revision=1)
    assert other == replace(role, high_water=4, revision=1)
    assert hash(other) == hash(replace(role, high_water=4, revision=1))
    assert role == Role("demo", "targets", high_water=3, trusted_digest="0" * 64)
