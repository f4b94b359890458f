"""Comparing what a token holds with what is registered; nothing is ever deleted or adopted here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keyd.domain.keys import Content, Key, KeyState, Scheme
from keyd.domain.tokens import FoundKey
from keyd.wire.worker_pb2 import KeyPair

Identity = tuple[bytes, bytes]

_CHEAPEST_FIRST = tuple(Scheme)


@dataclass(frozen=True)
class Reconciled:
    """`unusable` maps CKA_ID and public key of registered keys to what is wrong with them."""

    present: tuple[Key, ...] = ()
    unusable: dict[Identity, str] = field(default_factory=dict)
    missing_keys: tuple[str, ...] = ()
    strays: int = 0

    @property
    def foreign(self) -> bool:
        """Keys are registered and none is here: another token, or this one re-initialised."""
        return bool(self.missing_keys) and not self.present


def identity_of(key: Key) -> Identity:
    """By what a key is found on its token."""
    return (key.cka_id, key.public_der)


def reconcile(registered: Iterable[Key], found: Sequence[FoundKey]) -> Reconciled:
    """Match registered keys by CKA_ID and public key; the rest of `found` are strays."""
    by_id = {each.cka_id: each for each in found}
    present: list[Key] = []
    unusable: dict[Identity, str] = {}
    names: list[str] = []
    claimed: set[bytes] = set()
    for key in registered:
        if key.state is KeyState.DESTROYED:
            continue
        if problem := _problem(key, by_id.get(key.cka_id)):
            unusable[identity_of(key)] = problem
            names.append(key.name)
        else:
            present.append(key)
            claimed.add(key.cka_id)
    strays = sum(each.cka_id not in claimed for each in found)
    return Reconciled(tuple(present), unusable, tuple(sorted(names)), strays)


def canary(keys: Iterable[Key]) -> Key | None:
    """The key whose signature shows that the token works: the log's if there is one, else cheap."""
    able = [key for key in keys if key.state in (KeyState.ACTIVE, KeyState.PRE_ACTIVE)]
    return min(able, key=_canary_rank, default=None)


def to_found(pair: KeyPair) -> FoundKey:
    """What the worker read, judged by the attributes that keyd demands."""
    problem = _pair_problem(pair)
    return FoundKey(
        cka_id=pair.cka_id,
        label=pair.label,
        public_der=pair.public_der,
        scheme=Scheme(pair.scheme) if pair.scheme else None,
        rsa_bits=pair.rsa_bits,
        healthy=not problem,
        problem=problem,
        generated_on_token=pair.local,
    )


def _canary_rank(key: Key) -> tuple[bool, int, int, str]:
    return (
        key.content is not Content.LOG,
        _CHEAPEST_FIRST.index(key.scheme),
        key.rsa_bits,
        key.name,
    )


def _problem(key: Key, found: FoundKey | None) -> str:
    if found is None:
        return "no object on the token has its CKA_ID"
    if not found.healthy:
        return found.problem
    if found.public_der != key.public_der:
        return "the objects with its CKA_ID have another public key"
    return ""


def _pair_problem(pair: KeyPair) -> str:
    checks = (
        (pair.private_found, "there is no private key"),
        (not pair.duplicates, "several objects share this CKA_ID"),
        (pair.public_der, "its public key cannot be read"),
        (pair.scheme, "TUF has no scheme for it"),
        (not pair.extractable, "CKA_EXTRACTABLE is not false"),
        (pair.sensitive, "CKA_SENSITIVE is not true"),
        (pair.always_sensitive, "CKA_ALWAYS_SENSITIVE is not true"),
        (pair.never_extractable, "CKA_NEVER_EXTRACTABLE is not true"),
        (pair.local, "CKA_LOCAL is not true: it was not generated on the token"),
        (pair.may_sign, "CKA_SIGN is not true"),
    )
    return next((problem for met, problem in checks if not met), "")
