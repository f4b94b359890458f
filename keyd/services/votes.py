"""Whose valid signatures a published file carries, and whether they are enough.

Files come from anybody who may import, and this runs where everybody's writes wait: what a file
costs is bounded by the keys that are trusted, not by what it says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keyd.domain import public_keys
from keyd.domain.delegations import key_table
from keyd.domain.keys import KeyState
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.payload import Payload
from keyd.domain.rules.required import required_sets
from keyd.domain.trust import KeySet, Question, RepositoryView
from keyd.errors import PolicyViolation
from keyd.ports import View

# Rotations that only spell a key in another way have it sign under its old and its new id.
_TRIES = 2

Votes = Mapping[str, bytes]
NamedKeys = Mapping[str, list[tuple[str, Mapping[str, Any]]]]


def count_votes(
    question: Question, view: RepositoryView, file: MetadataFile
) -> tuple[tuple[KeySet, ...], Votes]:
    """The key lists that a file needs, all of them satisfied, and signatures by fingerprint.

    Raises: PolicyViolation (SIGNATURES_MISSING).
    """
    required, _ = required_sets(question, view)
    lists_wanted = 2 if view.role.name == "root" else 1
    if len(required) < lists_wanted:
        raise _missing(view, file, "nobody says who signs it")
    votes: dict[str, bytes] = {}
    for keys in required:
        votes |= _valid(file, _named_keys(view, file, keys))
        if lacking := keys.missing(frozenset(votes)):
            raise _missing(view, file, f"{lacking} listed by {keys.delegator}")
    return required, votes


def check_not_stolen(
    view: View, role: str, version: int, required: Sequence[KeySet], signed: Iterable[str]
) -> None:
    """Refuse what a thief could have signed alone: compromised keys reach every threshold.

    Beside others they count, as for a root that removes them (R7): the others saw these bytes.
    Raises: PolicyViolation (SIGNED_BY_COMPROMISED_KEYS).
    """
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in signed)
    stolen = frozenset(k.fingerprint for k in held if k and k.state is KeyState.COMPROMISED)
    # Of a root, only the list it has to replace: its own is what its author likes.
    lists = required[:1] if role == "root" else required
    if stolen and not any(keys.missing(stolen) for keys in lists):
        raise PolicyViolation(
            "SIGNED_BY_COMPROMISED_KEYS",
            f"compromised keys alone signed version {version} of {role}, which is newer than the "
            "trusted one: replace them, and sign what is good of it with their successors",
        )


def _valid(file: MetadataFile, named: NamedKeys) -> dict[str, bytes]:
    """Signatures by fingerprint. One key signs under few ids, so few tries tell all of it."""
    found: dict[str, bytes] = {}
    tries: Counter[str] = Counter()
    for keyid, signature in file.signatures:
        for fingerprint, key_object in named.get(keyid, ()):
            if fingerprint in found or tries[fingerprint] >= _TRIES:
                continue
            tries[fingerprint] += 1
            pair = [(keyid, signature)]
            if public_keys.verify_metadata_signatures(file.payload.raw, pair, {keyid: key_object}):
                found[fingerprint] = bytes.fromhex(signature)
    return found


def _named_keys(view: RepositoryView, file: MetadataFile, keys: KeySet) -> NamedKeys:
    """Key id to the keys of one list that it may stand for: (fingerprint, key object)."""
    wanted = set(keys.fingerprints.values())
    named: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for source in _sources(view, file):
        signed = source.signed
        holder = signed if signed["_type"] == "root" else signed["delegations"]
        for keyid, fingerprint in key_table(source).fingerprints.items():
            if fingerprint in wanted:
                named.setdefault(keyid, []).append((fingerprint, holder["keys"][keyid]))
    return named


def _sources(view: RepositoryView, file: MetadataFile) -> Iterator[Payload]:
    """Payloads whose key ids a file's signatures use."""
    if view.role.name == "root":
        yield file.payload
    yield from (payload for _, payload in view.role.delegators)
    if view.trusted_root is not None:
        yield view.trusted_root


def _missing(view: RepositoryView, file: MetadataFile, words: str) -> PolicyViolation:
    return PolicyViolation(
        "SIGNATURES_MISSING",
        f"{view.role.name} version {file.version} lacks valid signatures: {words}",
    )
