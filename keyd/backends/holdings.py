"""What a token must be and hold to be ours: its identity, the registered keys, their pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from keyd.backends.config import TokenConfig
from keyd.backends.dialogue import Dialogue, WorkerRefused
from keyd.backends.pins import NotReady
from keyd.backends.reconcile import (
    NO_PRIVATE_KEY,
    Identity,
    Reconciled,
    canary,
    identity_of,
    reconcile,
)
from keyd.backends.state import StateBoard
from keyd.domain.keys import Key, KeyState
from keyd.domain.records import TokenIdentity
from keyd.domain.tokens import TokenState
from keyd.ports import TokenJournal
from keyd.wire.worker_pb2 import Failure, Opened

_FOREIGN = (
    "none of the registered keys is on this token: it was re-initialised, or it is another one "
    "with the same serial; put the right token back"
)
# A key that was not found may have been unreadable for a moment: it is looked for again soon.
_LOOK_AGAIN_S = 2.0
# What may mean that this one key is gone, and says nothing of the token's other keys.
_OF_ONE_KEY = (Failure.KIND_KEY_NOT_FOUND, Failure.KIND_KEY_AMBIGUOUS)


class Holdings:
    """`unusable` maps registered keys that may not sign to the reason.

    `seen` are keys that this token has had: registered ones, and those that signed or were made.
    Every method may raise WorkerRefused, WorkerLost and what the journal raises.
    """

    def __init__(
        self, config: TokenConfig, journal: TokenJournal, ask: Dialogue, board: StateBoard
    ) -> None:
        self._config = config
        self._journal = journal
        self._ask = ask
        self._board = board
        self.seen: set[Identity] = set()
        self.unusable: Mapping[Identity, str] = MappingProxyType({})
        self._canary: Key | None = None
        self._tested_all = False
        self._shows_keys = False
        self._was_foreign = False
        self._all_missing = False
        self._canary_due = self._stock_due = 0.0

    def check_identity(self, opened: Opened) -> None:
        """Refuse another token than the first one seen. Raises: NotReady."""
        known = self._journal.identity(self._config.name)
        if known is not None and known != self._identity(opened):
            raise NotReady(
                TokenState.OFFLINE,
                f"another token is here (serial {opened.serial!r}, label {opened.label!r}) than "
                f"the one first seen (serial {known.serial!r}, label {known.label!r}); put that "
                "one back, or give this one a name of its own",
            )

    def pin_identity(self, opened: Opened) -> None:
        """Remember the first token seen, once it let us in."""
        if self._journal.identity(self._config.name) is None:
            self._journal.pin_identity(self._identity(opened))

    def demand_shown_keys(self) -> None:
        """Give no PIN to a token that has visibly lost our keys. Raises: NotReady.

        Public keys are usually readable before the login. Whether this token shows them is learnt,
        for some hide everything.
        """
        registered = {key.public_der for key in self._registered()}
        if not registered:
            return
        if any(found.public_der in registered for found in self._ask.inventory()):
            self._shows_keys = True
        elif self._shows_keys or self._was_foreign:
            raise NotReady(TokenState.OFFLINE, _FOREIGN)

    def take_stock(self, *, afresh: bool = False) -> None:
        """Compare token and catalogue; the first time, test every pair.

        `afresh`: the module was initialised and logged in just now. Only then does an empty token
        count as another one: after a replug searches may come back empty until then.
        Raises: NotReady (none of our keys is here), SelfCheckFailed.
        """
        registered = self._registered()
        stock = reconcile(registered, self._ask.inventory())
        if afresh or not stock.foreign:
            self._was_foreign = stock.foreign
        if stock.foreign:
            raise NotReady(TokenState.OFFLINE, _FOREIGN)
        self._notice_loss(registered, stock)
        if not self._tested_all:
            stock = _without(stock, self._ask.self_check(stock.present))
            self._tested_all = True
        self.seen.update(map(identity_of, registered))
        self.unusable = MappingProxyType(stock.unusable)
        self._canary = canary(stock.present)
        wait_s = self._config.inventory_interval_s
        if stock.missing_keys:
            wait_s = min(wait_s, _LOOK_AGAIN_S)
        self._stock_due = time.monotonic() + wait_s
        self._board.describe(
            lambda status: replace(status, strays=stock.strays, missing_keys=stock.missing_keys)
        )

    def _notice_loss(self, registered: list[Key], stock: Reconciled) -> None:
        """After a logout by others a token shows public keys alone, as if all had been deleted.

        Once, a new login is worth it. Raises: NotReady.
        """
        missing = NO_PRIVATE_KEY in stock.unusable.values() and not stock.present
        news = missing and not self._all_missing
        self._all_missing = missing
        if news and not self.seen.isdisjoint(map(identity_of, registered)):
            raise NotReady(TokenState.OFFLINE, "the token shows no private key any more")

    def check_canary(self) -> None:
        """Only a signature shows that a token works.

        If the key that is to make it is gone, stock is taken and another one makes it.
        Raises: WorkerRefused, NotReady, SelfCheckFailed.
        """
        failure = self._canary_failure()
        if failure is not None and failure.kind in _OF_ONE_KEY:
            self.take_stock()
            failure = self._canary_failure()
        if failure is not None:
            raise WorkerRefused(failure)
        self._canary_due = time.monotonic() + self._config.canary_interval_s

    def _canary_failure(self) -> Failure | None:
        if self._canary is None:
            self._ask.probe()
            return None
        return self._ask.self_check([self._canary]).get(self._canary.name)

    def check_what_is_due(self, now: float) -> None:
        """One look at an idle token: its keys, a signature, or just its presence."""
        if now >= self._stock_due:
            self.take_stock()
        elif now >= self._canary_due:
            self.check_canary()
        else:
            self._ask.probe()

    def check_all(self) -> None:
        """A signature and the keys, after a request failed.

        In this order: a token that hangs is found out by a signature within seconds, while an
        inventory may take minutes.
        """
        self.expire()
        self.check_canary()
        if not self._stock_due:
            self.take_stock()

    def expire(self) -> None:
        """Make the next look compare the keys."""
        self._stock_due = 0.0

    def _identity(self, opened: Opened) -> TokenIdentity:
        return TokenIdentity(
            token=self._config.name,
            serial=opened.serial,
            label=opened.label,
            manufacturer=opened.manufacturer,
            model=opened.model,
        )

    def _registered(self) -> list[Key]:
        keys = self._journal.keys(self._config.name)
        return [key for key in keys if key.state is not KeyState.DESTROYED]


def _without(stock: Reconciled, refused: Mapping[str, Failure]) -> Reconciled:
    broken = [key for key in stock.present if key.name in refused]
    return replace(
        stock,
        present=tuple(key for key in stock.present if key.name not in refused),
        unusable=stock.unusable
        | {identity_of(key): f"it does not sign ({refused[key.name].code})" for key in broken},
        missing_keys=tuple(sorted({*stock.missing_keys, *refused})),
    )
