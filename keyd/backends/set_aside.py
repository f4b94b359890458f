"""Registered keys that are on the token and do not sign: kept apart from it, and tested again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from keyd.backends.reconcile import Identity, Reconciled, identity_of
from keyd.domain.keys import Key
from keyd.wire.worker_pb2 import Failure

# How many are tested again at a time: each may take a token seconds.
TESTED_AGAIN = 4

_OF_ONE_KEY = (
    Failure.KIND_KEY_NOT_FOUND,
    Failure.KIND_KEY_AMBIGUOUS,
    Failure.KIND_PAIR_BROKEN,
    Failure.KIND_NOT_SUPPORTED,
    Failure.KIND_INVALID,
)


def of_one_key(failure: Failure) -> bool:
    """Whether a refusal to sign says nothing of the token's other keys."""
    return failure.kind in _OF_ONE_KEY


@dataclass(frozen=True)
class SetAside:
    """Why each of them did not sign; whichever was tested longest ago comes first."""

    failures: Mapping[Identity, Failure] = field(default_factory=lambda: MappingProxyType({}))

    def to_test(self, present: Iterable[Key]) -> list[Key]:
        """Those whose turn it is, of the keys that are there."""
        here = {identity_of(key): key for key in present}
        return [here[each] for each in self.failures if each in here][:TESTED_AGAIN]

    def tested(self, keys: Sequence[Key], refused: Mapping[str, Failure]) -> SetAside:
        """After a test of `keys`; `refused` maps the names of those that did not sign."""
        identities = {identity_of(key) for key in keys}
        others = {each: why for each, why in self.failures.items() if each not in identities}
        again = {identity_of(key): refused[key.name] for key in keys if key.name in refused}
        return SetAside(MappingProxyType(others | again))

    def only(self, registered: Iterable[Key]) -> SetAside:
        """Without those that are registered no more."""
        known = {identity_of(key) for key in registered}
        kept = {each: why for each, why in self.failures.items() if each in known}
        return SetAside(MappingProxyType(kept))

    def without(self, stock: Reconciled) -> Reconciled:
        """What is left of a stock for signing."""
        broken = [key for key in stock.present if identity_of(key) in self.failures]
        reasons = {identity_of(key): self.failures[identity_of(key)].code for key in broken}
        return replace(
            stock,
            present=tuple(key for key in stock.present if identity_of(key) not in reasons),
            unusable=stock.unusable
            | {each: f"it does not sign ({code})" for each, code in reasons.items()},
            missing_keys=tuple(sorted({*stock.missing_keys, *(key.name for key in broken)})),
        )

    def failure_of_the_token(self, stock: Reconciled) -> Failure | None:
        """Why not one of the keys that are there signs, if that may be the token's fault."""
        failures = [self.failures.get(identity_of(key)) for key in stock.present]
        if None in failures:
            return None
        return next((each for each in failures if each and not of_one_key(each)), None)
