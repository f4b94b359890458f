"""What a token must be and hold to be ours: its identity, the registered keys, their pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
from keyd.backends.set_aside import SetAside, of_one_key
from keyd.backends.state import StateBoard
from keyd.domain.keys import Key, KeyState
from keyd.domain.records import TokenIdentity
from keyd.domain.tokens import TokenState
from keyd.ports import TokenJournal
from keyd.wire.worker_pb2 import Opened

_FOREIGN = (
    "none of the registered keys is on this token: it was re-initialised, or it is another one "
    "with the same serial; put the right token back"
)
# A key that was not found may have been unreadable for a moment: it is looked for again soon.
_LOOK_AGAIN_S = 2.0


class Holdings:
    """`unusable` maps registered keys that may not sign to the reason.

    A key that refuses to sign while another one signs is set aside until it signs again.
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
        self._stock = Reconciled()
        self._aside = SetAside()
        self._canary: Key | None = None
        self._tested_all = False
        self._shows_keys = False
        self._was_foreign = False
        self._all_missing = False
        self._some_signed = False
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
        """Compare token and catalogue; the first time, test every pair, then those set aside.

        `afresh`: the module was initialised and logged in just now. Only then does an empty token
        count as another one: after a replug searches may come back empty until then.
        Raises: NotReady (none of our keys is here), WorkerRefused (none signs), SelfCheckFailed.
        """
        registered = self._registered()
        stock = reconcile(registered, self._ask.inventory())
        if afresh or not stock.foreign:
            self._was_foreign = stock.foreign
        if stock.foreign:
            raise NotReady(TokenState.OFFLINE, _FOREIGN)
        self._notice_loss(registered, stock)
        self._aside = self._aside.only(registered)
        self._test(self._aside.to_test(stock.present) if self._tested_all else stock.present)
        if failure := self._aside.failure_of_the_token(stock):
            raise WorkerRefused(failure)
        self._tested_all = True
        self.seen.update(map(identity_of, registered))
        self._stock = stock
        self._sort_out()

    def _test(self, keys: Sequence[Key]) -> None:
        refused = self._ask.self_check(keys)
        doubtful = [
            key for key in keys if key.name in refused and not of_one_key(refused[key.name])
        ]
        if len(refused) < len(keys) and doubtful:
            # Another key signs: the token may have come to itself in between.
            again = self._ask.self_check(doubtful)
            names = {key.name for key in doubtful}
            refused = {name: why for name, why in refused.items() if name not in names} | again
        self._aside = self._aside.tested(keys, refused)

    def _sort_out(self) -> None:
        """Conclude from the last stock and the keys set aside who may sign, and tell it."""
        able = self._aside.without(self._stock)
        self.unusable = MappingProxyType(able.unusable)
        self._canary = canary(able.present)
        wait_s = self._config.inventory_interval_s
        if able.missing_keys:
            wait_s = min(wait_s, _LOOK_AGAIN_S)
        self._stock_due = time.monotonic() + wait_s
        self._board.describe(
            lambda status: replace(status, strays=able.strays, missing_keys=able.missing_keys)
        )
        self._notice_silence()

    def _notice_silence(self) -> None:
        """A token that was asked while it booted refuses every key, as if each were at fault.

        Once, a new login is worth it. Raises: WorkerRefused.
        """
        signed, self._some_signed = self._some_signed, self._canary is not None
        first = canary(self._stock.present)
        if signed and not self._some_signed and first is not None:
            self.test_all_again()
            raise WorkerRefused(self._aside.failures[identity_of(first)])

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

        If the key that is to make it refuses for its own sake, it is set aside and the next one
        tries. Raises: WorkerRefused, NotReady, SelfCheckFailed.
        """
        refused = False
        while (key := self._canary) is not None:
            failures = self._ask.self_check([key])
            if not failures:
                self._canary_due = time.monotonic() + self._config.canary_interval_s
                return
            if not of_one_key(failures[key.name]):
                raise WorkerRefused(failures[key.name])
            self._aside = self._aside.tested([key], failures)
            if refused:
                self._sort_out()
            else:
                # It may be gone, and others with it.
                self.take_stock()
            refused = True
        self._ask.probe()

    def test_all_again(self) -> None:
        """Have the next stock test every pair: one that fails alone is to be set aside."""
        self._tested_all = False

    def check_what_is_due(self, now: float) -> None:
        """One look at an idle token: a signature, its keys, or just its presence."""
        if now < min(self._canary_due, self._stock_due):
            self._ask.probe()
            return
        if now >= self._canary_due:
            self.check_canary()
        # A canary that was set aside has had stock taken.
        if now >= self._stock_due:
            self.take_stock()

    def check_set_aside(self, now: float) -> None:
        """One look at a busy token: only whether keys that were set aside sign again."""
        if self._aside.failures and now >= self._stock_due:
            self._test(self._aside.to_test(self._stock.present))
            self._sort_out()

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
