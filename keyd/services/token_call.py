"""Asking a token, and not believing it: every signature is verified in software."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain import public_keys
from keyd.domain.keys import Key
from keyd.domain.tokens import SignItem
from keyd.errors import DeadlineExceeded, KeydError, SelfCheckFailed
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Clock, Late
from keyd.services.world import World


class Deadline:
    """The moment after which nobody waits for an answer any more."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + timeout_s

    def end_s(self) -> float:
        """When it comes, on the clock's monotonic scale."""
        return self._end

    def remaining_s(self) -> float:
        """Seconds left. Raises: DeadlineExceeded (outcome NOT_STARTED) when there are none."""
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                "time ran out before the token was asked; send the same request again",
                details={"outcome": "NOT_STARTED"},
            )
        return left


def sign_verified(
    world: World,
    token: str,
    items: Sequence[tuple[Key, bytes]],
    deadline: Deadline,
    late: Late | None = None,
) -> list[bytes | KeydError]:
    """Have one token sign (key, message) pairs; a wrong signature quarantines the token.

    `late` is told of signatures after the deadline, as they come: it must verify them itself.
    """
    try:
        answers = world.tokens.get(token).sign(
            [sign_item(key, data) for key, data in items],
            deadline.remaining_s(),
            late,
        )
    except KeydError as failure:
        return [failure] * len(items)
    failpoint(Failpoint.SIGN_AFTER_TOKEN)
    return [
        verified(world, key, data, answer)
        for (key, data), answer in zip(items, answers, strict=True)
    ]


def sign_item(key: Key, data: bytes) -> SignItem:
    """What a token is asked."""
    return SignItem(key.cka_id, key.public_der, key.scheme, data)


def verified(world: World, key: Key, data: bytes, answer: bytes | Exception) -> bytes | KeydError:
    """A token's answer, if it is a signature that verifies; else the token is quarantined."""
    if isinstance(answer, KeydError):
        return answer
    if isinstance(answer, Exception):
        raise answer
    try:
        public_keys.verify(key.public_der, key.scheme, data, answer)
    except KeydError:
        world.tokens.get(key.token).quarantine(f"wrong signature by key {key.name}")
        return SelfCheckFailed(
            "SIGNATURE_SELF_CHECK_FAILED",
            f"token {key.token!r} returned a signature that does not verify with the registered "
            f"key {key.name!r}; nothing was released and the token is quarantined",
        )
    return answer
