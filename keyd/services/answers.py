"""One exchange per token for many reserved payloads, each answer verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from keyd.errors import KeydError
from keyd.ports import Late
from keyd.services.reserve import Reserved
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World


@dataclass(frozen=True)
class Answer:
    """A verified signature, or why there is none."""

    reserved: Reserved
    outcome: bytes | KeydError


def ask_tokens(
    world: World, reserved: Sequence[Reserved], deadline: Deadline, late: Late | None = None
) -> list[Answer]:
    """Sign every reserved payload, one exchange per token, and verify what comes back.

    Answers stand in the order of `reserved`; a token that fails does not touch the others. `late`
    is told of signatures that come after the deadline.
    """
    by_token: dict[str, list[int]] = {}
    for place, item in enumerate(reserved):
        by_token.setdefault(item.prepared.key.token, []).append(place)
    outcomes: dict[int, bytes | KeydError] = {}

    def ask(token: str) -> None:
        places = by_token[token]
        items = [(reserved[p].prepared.key, reserved[p].prepared.payload.raw) for p in places]
        signed = sign_verified(world, token, items, deadline, late)
        outcomes.update(zip(places, signed, strict=True))

    _each(ask, list(by_token))
    return [Answer(item, outcomes[place]) for place, item in enumerate(reserved)]


def _each(ask: Callable[[str], None], tokens: list[str]) -> None:
    if len(tokens) == 1:
        ask(tokens[0])
        return
    with ThreadPoolExecutor(max_workers=len(tokens)) as pool:
        list(pool.map(ask, tokens))
