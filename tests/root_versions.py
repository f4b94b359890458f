"""Roots told by numbers: which keys they list, with which threshold, and who signed them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Key, Metadata, Root

from keyd.domain import metadata_file
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.public_keys import fingerprint_of

EXPIRES = datetime(2040, 1, 1, tzinfo=UTC)
# The keys of the three other roles, unless a test says otherwise.
TARGETS, SNAPSHOT, TIMESTAMP = 90, 91, 92


@dataclass(frozen=True)
class RootVersion:
    """A root's own list, by the numbers of keys, and the keys that signed it.

    `others` are (keys, threshold) of the other roles where they are not the usual ones; `owners`
    are names that tuf-on-ci would write into key objects.
    """

    keys: Sequence[int]
    threshold: int
    signed_by: Sequence[int] = ()
    others: Mapping[str, tuple[Sequence[int], int]] = field(default_factory=dict)
    owners: Mapping[int, str] = field(default_factory=dict)

    def lists(self) -> Mapping[str, tuple[Sequence[int], int]]:
        usual = {"targets": (TARGETS,), "snapshot": (SNAPSHOT,), "timestamp": (TIMESTAMP,)}
        rest = {role: (numbers, 1) for role, numbers in usual.items()}
        return {"root": (self.keys, self.threshold), **rest, **self.others}


@cache
def signer(number: int) -> CryptoSigner:
    """The same Ed25519 key for the same number."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")))


@cache
def fingerprint(number: int) -> str:
    return fingerprint_of(signer(number).public_key.to_dict())


def _key(number: int, owner: str | None) -> Key:
    key = copy.deepcopy(signer(number).public_key)
    if owner:
        key.unrecognized_fields["x-tuf-on-ci-keyowner"] = owner
    return key


def root_bytes(version: int, wanted: RootVersion) -> bytes:
    """The metadata file as python-tuf writes it."""
    return root_metadata(version, wanted).to_bytes()


def root_metadata(version: int, wanted: RootVersion) -> Metadata[Root]:
    root = Root(version=version, expires=EXPIRES, consistent_snapshot=True)
    for role, (numbers, threshold) in wanted.lists().items():
        for number in numbers:
            root.add_key(_key(number, wanted.owners.get(number)), role)
        root.roles[role].threshold = threshold
    metadata = Metadata(root)
    for number in wanted.signed_by:
        metadata.sign(signer(number), append=True)
    return metadata


def root_file(version: int, wanted: RootVersion) -> MetadataFile:
    return metadata_file.read(root_bytes(version, wanted))
