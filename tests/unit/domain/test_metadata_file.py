"""Metadata files: JSON as every client reads it, or a refusal that says why not."""

from __future__ import annotations

import json

import pytest
from tuf.api.metadata import Metadata, MetaFile

from keyd.domain import canonical
from keyd.domain.file_hashes import HASH_DIGITS, is_hash
from keyd.domain.metadata_file import facts_of, read
from keyd.errors import InvalidRequest
from tests.unit.domain.payloads import GOOD, document

SIGNATURES = [{"keyid": "a", "sig": "00"}, {"keyid": "b", "sig": ""}]


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("indent", [None, 1])
def test_layout_is_free(name: str, indent: int | None) -> None:
    envelope = {"signed": document(name), "signatures": SIGNATURES}
    content = json.dumps(envelope, indent=indent).encode()
    file = read(content)
    assert file.payload.raw == GOOD[name] == Metadata.from_bytes(content).signed_bytes
    assert file.signatures == (("a", "00"),)


@pytest.mark.parametrize(
    "signatures",
    [None, {}, "a", [1], [{}], [{"keyid": 1, "sig": ""}], [{"keyid": "a", "sig": None}]],
)
def test_signatures_have_one_form(signatures: object) -> None:
    envelope = {"signatures": signatures, "signed": document("timestamp")}
    with pytest.raises(InvalidRequest) as caught:
        read(json.dumps(envelope).encode())
    assert caught.value.reason == "FILE_NOT_METADATA"


@pytest.mark.parametrize(
    "spoilt",
    [
        # PEM keys have line feeds, which canonical JSON leaves alone and no client reads.
        b'{"signatures":[],"signed":' + GOOD["root"] + b"}",
        json.dumps({"signatures": [], "signed": document("root")}).encode().replace(b"\\n", b"\n"),
        b'{"signatures":[{"keyid":"\\\\\\"\t","sig":""}],"signed":' + GOOD["timestamp"] + b"}",
    ],
    ids=["canonical", "line-feed", "tab"],
)
def test_raw_control_characters_are_refused(spoilt: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(spoilt)
    assert caught.value.reason == "JSON_MALFORMED"
    assert "escape control characters" in caught.value.message


def test_canonical_files_without_line_feeds_pass() -> None:
    envelope = {"signatures": SIGNATURES, "signed": document("timestamp"), "note": 'a\\"b\\\\'}
    assert read(canonical.encode(envelope)).payload.raw == GOOD["timestamp"]


@pytest.mark.parametrize("version", [0, -1])
def test_versions_start_at_one(version: int) -> None:
    envelope = {"signatures": [], "signed": {**document("timestamp"), "version": version}}
    with pytest.raises(InvalidRequest) as caught:
        read(json.dumps(envelope).encode())
    assert caught.value.reason == "VERSION_NOT_POSITIVE"


def test_python_tuf_computes_every_hash_that_is_known() -> None:
    content = b"a metadata file"
    facts = facts_of(content)
    assert facts.hashes.keys() == HASH_DIGITS.keys()
    assert all(is_hash(name, value) for name, value in facts.hashes.items())
    MetaFile(1, facts.length, dict(facts.hashes)).verify_length_and_hashes(content)
