"""Comparing what a token holds with what is registered; nothing is ever deleted or adopted here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keyd.domain.keys import Content, Key, KeyState, Scheme
from keyd.domain.tokens import FoundKey
from keyd.wire.worker_pb2 import KeyPair

Identity = tuple[bytes, bytes]

NO_PRIVATE_KEY = "there is no private key"

_CHEAPEST_FIRST = tuple(Scheme)
_SCHEMES = {scheme.value: scheme for scheme in Scheme}


@dataclass(frozen=True)
class Reconciled:
    """`unusable` maps CKA_ID and public key of registered keys to what is wrong with them.

    `foreign`: keys are registered and no object of any is here. It is another token, or this one
    was re-initialised.
    """

    present: tuple[Key, ...] = ()
    unusable: dict[Identity, str] = field(default_factory=dict)
    missing_keys: tuple[str, ...] = ()
    strays: int = 0
    foreign: bool = False


def identity_of(key: Key) -> Identity:
    """By what a key is found on its token."""
    return (key.cka_id, key.public_der)


def reconcile(registered: Iterable[Key], found: Sequence[FoundKey]) -> Reconciled:
    """Match registered keys by CKA_ID and public key; the rest of `found` are strays."""
    by_id = {each.cka_id: each for each in found}
    ours = [key for key in registered if key.state is not KeyState.DESTROYED]
    problems = {key.name: _problem(key, by_id.get(key.cka_id)) for key in ours}
    present = tuple(key for key in ours if not problems[key.name])
    claimed = {key.cka_id for key in present}
    return Reconciled(
        present=present,
        unusable={identity_of(key): problems[key.name] for key in ours if problems[key.name]},
        missing_keys=tuple(sorted(name for name, problem in problems.items() if problem)),
        strays=sum(each.cka_id not in claimed for each in found),
        foreign=bool(ours) and not any(_resembles(key, by_id.get(key.cka_id)) for key in ours),
    )


def canary(keys: Iterable[Key]) -> Key | None:
    """The key whose signature shows that the token works: the log's if there is one, else cheap."""
    able = [key for key in keys if key.state in (KeyState.ACTIVE, KeyState.PRE_ACTIVE)]
    return min(able, key=_canary_rank, default=None)


def to_found(pair: KeyPair, *, waive_local: bool = False) -> FoundKey:
    """What the worker read, judged by the attributes that keyd demands."""
    problem = _pair_problem(pair, waive_local=waive_local)
    return FoundKey(
        cka_id=pair.cka_id,
        label=pair.label,
        public_der=pair.public_der,
        scheme=_SCHEMES.get(pair.scheme),
        rsa_bits=pair.rsa_bits,
        healthy=not problem,
        problem=problem,
        waived=("CKA_LOCAL",) if waive_local and not pair.local else (),
    )


def _canary_rank(key: Key) -> tuple[bool, int, int, str]:
    return (
        key.content is not Content.LOG,
        _CHEAPEST_FIRST.index(key.scheme),
        key.rsa_bits,
        key.name,
    )


def _resembles(key: Key, found: FoundKey | None) -> bool:
    # Several objects of one CKA_ID have no one public key to tell.
    return found is not None and found.public_der in (key.public_der, b"")


def _problem(key: Key, found: FoundKey | None) -> str:
    if found is None:
        return "no object on the token has its CKA_ID"
    if not found.healthy:
        return found.problem
    if found.public_der != key.public_der:
        return "the objects with its CKA_ID have another public key"
    return ""


def _pair_problem(pair: KeyPair, *, waive_local: bool) -> str:
    checks = (
        (pair.private_found, NO_PRIVATE_KEY),
        (not pair.duplicates, "several objects share this CKA_ID"),
        (pair.public_der, "its public key cannot be read"),
        (pair.scheme in _SCHEMES, "TUF has no scheme for it"),
        (not pair.extractable, "CKA_EXTRACTABLE is not false"),
        (pair.sensitive, "CKA_SENSITIVE is not true"),
        (pair.always_sensitive, "CKA_ALWAYS_SENSITIVE is not true"),
        (pair.never_extractable, "CKA_NEVER_EXTRACTABLE is not true"),
        (
            pair.local or waive_local,
            "CKA_LOCAL is not true: it was not generated on the token, or the module does not tell",
        ),
        (pair.may_sign, "CKA_SIGN is not true"),
    )
    return next((problem for met, problem in checks if not met), "")
