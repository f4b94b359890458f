"""What must survive a restart about tokens: the `TokenJournal` port on the ledger."""

from __future__ import annotations

from keyd.domain.keys import Key
from keyd.domain.records import PinAttempt, TokenIdentity
from keyd.errors import AlreadyExists
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.transaction import SqliteTransaction


class LedgerTokenJournal:
    """Every write is durable when it returns. Safe between threads."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger

    def identity(self, token: str) -> TokenIdentity | None:
        return self._ledger.read(lambda view: view.token_identity(token))

    def pin_identity(self, identity: TokenIdentity) -> None:
        """Pin the first identity seen. Raises: AlreadyExists when another one is pinned."""

        def work(tx: SqliteTransaction) -> None:
            found = tx.token_identity(identity.token)
            if found is None:
                tx.put_token_identity(identity)
            elif found != identity:
                raise AlreadyExists(
                    "TOKEN_IDENTITY_CHANGED",
                    f"token {identity.token!r} was pinned as serial {found.serial!r}, this one is "
                    f"{identity.serial!r}",
                )

        self._ledger.transact(work)

    def pin_attempt(self, token: str) -> PinAttempt | None:
        return self._ledger.read(lambda view: view.pin_attempt(token))

    def record_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:
        self._ledger.transact(lambda tx: tx.put_pin_attempt(attempt, token))

    def quarantined(self, token: str) -> str | None:
        return self._ledger.read(lambda view: view.quarantine(token))

    def record_quarantine(self, token: str, reason: str | None) -> None:
        self._ledger.transact(lambda tx: tx.put_quarantine(token, reason))

    def keys(self, token: str) -> tuple[Key, ...]:
        """The registered keys of this token, also those that sign no more."""
        return self._ledger.read(
            lambda view: tuple(key for key in view.keys() if key.token == token)  # noqa: SIM118
        )
