"""Names are compared byte for byte: nothing that merely looks or folds alike is granted (E7)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keyd.domain.policy import Action, Caller, Grant, Policy, decide

NAME = "büro-k1"
METHOD = "SigningService.SignMetadata"
CALLER = Caller("dns:büro-k1", False)
ACTION = Action(METHOD, NAME, NAME, NAME)
GRANT = Grant(
    name="one",
    line=1,
    principals=frozenset({CALLER.principal}),
    methods=frozenset({METHOD}),
    repositories=frozenset({NAME}),
    roles=frozenset({NAME}),
    keys=frozenset({NAME}),
)
POLICY = Policy("00" * 32, (GRANT,))

VARIANTS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "title": str.title,
    "decomposed": lambda name: unicodedata.normalize("NFD", name) + "\u0308",
    "full width": lambda name: name[:-1] + chr(ord(name[-1]) + 0xFEE0),
    "no-break hyphen": lambda name: name.replace("-", "\u2011") + "\u200b",
    "Cyrillic": lambda name: name.replace("r", "\u0433").replace("S", "\u0405") + "\ufeff",
    "trailing space": lambda name: name + " ",
    "leading space": lambda name: " " + name,
    "newline": lambda name: name + "\n",
    "NUL": lambda name: name + "\0",
    "behind NUL": lambda name: name + "\0x",
    "wildcard": lambda name: "*",
    "question mark": lambda name: name[:-1] + "?",
    "prefix": lambda name: name[:-1],
    "longer": lambda name: name + "1",
    "slash": lambda name: name + "/",
    "dots": lambda name: "./" + name,
}


def test_the_name_itself_is_granted() -> None:
    assert decide(POLICY, CALLER, ACTION).allowed


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_of_a_name_is_granted(variant: str) -> None:
    vary = VARIANTS[variant]
    for field in ("repository", "role", "key", "method"):
        name = getattr(ACTION, field)
        other = vary(name)
        assert other != name
        try:
            allowed = decide(POLICY, CALLER, replace(ACTION, **{field: other})).allowed
        except KeyError:  # no such method
            assert field == "method"
        else:
            assert not allowed, (field, other)
    stranger = replace(CALLER, principal=vary(CALLER.principal))
    assert not decide(POLICY, stranger, ACTION).allowed


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_in_a_grant_gives_the_name(variant: str) -> None:
    """Also the other way round: what a policy's author mistyped."""
    vary = VARIANTS[variant]
    for field in ("principals", "repositories", "roles", "keys"):
        mistyped = frozenset(map(vary, getattr(GRANT, field)))
        changes: dict[str, Any] = {field: mistyped}
        policy = Policy("00" * 32, (replace(GRANT, **changes),))
        assert not decide(policy, CALLER, ACTION).allowed, field
