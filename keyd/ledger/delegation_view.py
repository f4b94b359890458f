"""Reading through one connection who delegates what: a part of the `View` port."""

from __future__ import annotations

from keyd.domain.delegations import Succinct
from keyd.domain.records import Delegation
from keyd.ledger.codec import Row
from keyd.ledger.rotation_view import RotationReading

_DELEGATORS = (
    "SELECT DISTINCT delegator FROM delegations "
    "WHERE repository = ? AND role = ? AND bit_length = 0"
)
_BINS = (
    "SELECT DISTINCT delegator, role, bit_length FROM delegations "
    "WHERE repository = ? AND bit_length > 0"
)
_NAMED_BETWEEN = (
    "SELECT DISTINCT role FROM delegations "
    "WHERE repository = ? AND role > ? AND role < ? AND bit_length = 0"
)
_DELEGATORS_BETWEEN = (
    "SELECT DISTINCT delegator FROM delegations "
    "WHERE repository = ? AND delegator > ? AND delegator < ?"
)


class DelegationReading(RotationReading):
    """The part of a view that is about delegations."""

    def delegations_of_key(self, fingerprint: str) -> tuple[tuple[str, Delegation], ...]:
        rows = self._execute(
            "SELECT DISTINCT repository, role, bit_length FROM delegations WHERE fingerprint = ? "
            "ORDER BY repository, role, bit_length",
            (fingerprint,),
        ).fetchall()
        return tuple(
            (repository, Delegation(role, fingerprint, bits)) for repository, role, bits in rows
        )

    def delegators_of(self, repository: str, role: str) -> tuple[str, ...]:
        named = self._all(name_of, _DELEGATORS, repository, role)
        bins = self._all(_bins_of, _BINS, repository)
        covering = {delegator for delegator, each in bins if each.covers(role)}
        return tuple(sorted({*named, *covering}))

    def named_bins(self, repository: str, bins: Succinct) -> tuple[str, ...]:
        return self._among(bins, _NAMED_BETWEEN, repository)

    def delegating_bins(self, repository: str, bins: Succinct) -> tuple[str, ...]:
        return self._among(bins, _DELEGATORS_BETWEEN, repository)

    def _among(self, bins: Succinct, sql: str, repository: str) -> tuple[str, ...]:
        # The character after the hyphen ends the range of names that begin so.
        begin, end = f"{bins.name_prefix}-", f"{bins.name_prefix}."
        found = self._all(name_of, sql, repository, begin, end)
        return tuple(role for role in found if bins.covers(role))

    def delegations_by(self, repository: str, delegator: str) -> tuple[Delegation, ...]:
        rows = self._execute(
            "SELECT role, fingerprint, bit_length FROM delegations "
            "WHERE repository = ? AND delegator = ?",
            (repository, delegator),
        ).fetchall()
        return tuple(Delegation(*row) for row in rows)


def name_of(row: Row) -> str:
    """The first column, a name."""
    name: str = row[0]
    return name


def _bins_of(row: Row) -> tuple[str, Succinct]:
    delegator, prefix, bit_length = row
    return delegator, Succinct(prefix, bit_length)
