"""Lists in pages, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from keyd.errors import InvalidRequest

T = TypeVar("T")

DEFAULT_SIZE = 100
MAX_SIZE = 1000


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items in order of name; `next_token` is "" on the last page."""

    items: tuple[T, ...]
    next_token: str


def page_size(asked: int) -> int:
    """0 asks for the default. Raises: InvalidRequest (PAGE_SIZE_INVALID)."""
    if not 0 <= asked <= MAX_SIZE:
        raise InvalidRequest("PAGE_SIZE_INVALID", f"page_size lies between 0 and {MAX_SIZE}")
    return asked or DEFAULT_SIZE


def paged(items: Sequence[T], name: Callable[[T], str], size: int, token: str) -> Page[T]:
    """The page after `token`, the last name of the previous page."""
    following = sorted((item for item in items if name(item) > token), key=name)
    wanted = page_size(size)
    shown = tuple(following[:wanted])
    return Page(shown, name(shown[-1]) if len(following) > wanted else "")
