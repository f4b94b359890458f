"""Lists that come page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from keyd_client.errors import AnswerMismatch


class _Asked(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=_Page)
T = TypeVar("T")


def listed(
    request: _Asked, fetch: Callable[[], P], items: Callable[[P], Sequence[T]]
) -> Iterator[T]:
    """All items; `fetch` gets the page that `request`, whose token this sets, asks for.

    Raises: AnswerMismatch (LIST_ENDLESS) where a page leads nowhere new. A daemon that makes up new
    items for ever is not found out: whoever must not depend on it stops reading.
    """
    seen = {request.page_token}
    while True:
        page = fetch()
        found = items(page)
        yield from found
        following = page.next_page_token
        if not following:
            return
        if following in seen or not found:
            raise AnswerMismatch(
                "LIST_ENDLESS", "a page of the list is followed by none that is new"
            )
        seen.add(following)
        request.page_token = following
