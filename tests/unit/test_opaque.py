"""Bytes that could pass for TUF metadata, and bytes that could not."""

from __future__ import annotations

import json

import pytest

from keyd.domain.opaque import looks_like_tuf

ROOT = '{"_type":"root","version":1}'
LAYOUT = '{"_type":"layout","expires":"2030-01-01T00:00:00Z","steps":[]}'


@pytest.mark.parametrize(
    "data",
    [
        ROOT.encode(),
        b"\xef\xbb\xbf" + ROOT.encode(),
        ROOT.encode("utf-16"),
        ROOT.encode("utf-16-be"),
        ROOT.encode("utf-32"),
        b'{"\\u005ftype":"r\\u006fot"}',
        b'{"_type":"layout","_type":"snapshot"}',
        b'{"_type":"Root"}',
        b'{ "signed" : {"_type" : "timestamp"}, "signatures": [] }',
        b'prefix {"_type": "targets"} suffix',
        b"DSSEv1 24 application/vnd.tuf+json 2 {}",
        b'\xff{"_type":"mirrors"}',
    ],
)
def test_tuf_metadata_is_recognised_in_disguise(data: bytes) -> None:
    assert looks_like_tuf(data)


@pytest.mark.parametrize(
    "data",
    [
        LAYOUT.encode(),
        b"DSSEv1 28 application/vnd.in-toto+json 2 {}",
        b"\x7fELF\x02\x01\x01\0\0\0",
        b"root",
        json.dumps({"text": ROOT}).encode(),
        json.dumps([1, 2, {"type": "root"}]).encode(),
        b"{" * 100_000,
    ],
)
def test_other_formats_are_left_alone(data: bytes) -> None:
    assert not looks_like_tuf(data)
