"""Path patterns: what they mean, and that their cost is known beforehand."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain.path_patterns import PathPatterns

PARTS = st.text(alphabet="ab*?[]!-", max_size=4)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


def one_by_one(patterns: list[str], path: str) -> bool:
    parts = path.split("/")
    split = [pattern.split("/") for pattern in patterns]
    return any(len(each) == len(parts) and all(map(fnmatchcase, parts, each)) for each in split)


@given(st.lists(PATHS, max_size=5), PATHS)
def test_they_mean_what_each_of_them_means(patterns: list[str], path: str) -> None:
    assert PathPatterns(patterns)(path) == one_by_one(patterns, path)


@pytest.mark.parametrize(
    ("patterns", "path", "matches"),
    [
        ((), "a", False),
        (("a/b",), "a/b", True),
        (("a/*",), "a/b", True),
        (("a/*",), "a/b/c", False),
        (("*",), "a/b", False),
        (("a/[bc]/?",), "a/c/d", True),
        (("a/[bc]/?",), "a/d/d", False),
        (("b/*", "a/*/x"), "a/b/y", False),
    ],
)
def test_examples(patterns: tuple[str, ...], path: str, matches: bool) -> None:
    assert PathPatterns(patterns)(path) is matches


def test_only_what_may_match_is_an_effort() -> None:
    many = range(1000)
    assert PathPatterns(f"names/{n}" for n in many).effort(5) == 0
    assert PathPatterns(f"team-{n}/*" for n in many).effort(5) == 5
    assert PathPatterns(f"all/*-{n}" for n in many).effort(5) == 5 * 1000 + 1000 * 200
