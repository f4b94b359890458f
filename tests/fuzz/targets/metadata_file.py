"""Whole metadata files: layout is free, and python-tuf reads the same out of them."""

from __future__ import annotations

import json

from tuf.api.exceptions import RepositoryError

from keyd.domain.metadata_file import MetadataFile, facts_of, read
from keyd.domain.public_keys import verify_metadata_signatures
from keyd.errors import InvalidRequest
from tests.fuzz import json_mutator
from tests.fuzz.targets import outcome
from tests.fuzz.targets.payload import (
    check_canonical,
    check_for_clients,
    check_refusal,
    python_tuf,
    stumbles_of,
)

DICTIONARY = "json.dict"


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return json_mutator.mutate(data, max_size, seed, canonical=False)


def check(data: bytes) -> None:
    file = outcome(InvalidRequest, read, data, extra_members=("owner",))
    if isinstance(file, InvalidRequest):
        assert file.reason
        if file.findings:
            check_refusal(file)
        return
    assert file.facts == facts_of(data)
    assert file.facts.length == len(data)
    check_canonical(file.payload)
    check_for_clients(file.payload)
    _check_signatures(file)
    if not stumbles_of(file.payload):
        _check_same_reading(data, file)


def _check_signatures(file: MetadataFile) -> None:
    """Whatever stands in them, nobody signed."""
    keys = file.payload.signed.get("keys", {})
    for keyid, sig in file.signatures:
        assert sig
        assert not verify_metadata_signatures(file.payload.raw, [(keyid, sig)], keys)


def _check_same_reading(data: bytes, file: MetadataFile) -> None:
    keyids = [entry["keyid"] for entry in json.loads(data)["signatures"]]
    read_by_tuf = outcome(RepositoryError, python_tuf, data)
    if isinstance(read_by_tuf, RepositoryError):
        # The one difference: a key id that signs twice. keyd lets it count once.
        assert len(set(keyids)) < len(keyids), read_by_tuf.__cause__
        return
    assert read_by_tuf.signed_bytes == file.payload.raw
    told = {k: s.signature for k, s in read_by_tuf.signatures.items() if s.signature}
    assert told == dict(file.signatures)
