"""RSA PKCS#1 v1.5: one block is right for a message (RFC 8017 9.2), everything near it is refused.

The blocks are made with the private key, so that padding alone decides. What verifiers let pass
here has made forgeries without one: Bleichenbacher 2006, CVE-2014-1568, CVE-2018-15836.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from keyd.domain.public_keys import verify
from keyd.errors import SelfCheckFailed
from tests.unit.domain.key_pairs import private_key, public_der

SCHEME = "rsa-pkcs1v15-sha256"
DATA = b"signed bytes"
DIGEST = hashlib.sha256(DATA).digest()
# DER of DigestInfo for SHA-256 (RFC 8017 9.2, note 1).
PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")
INFO = PREFIX + DIGEST
SIZE = 256


def block(info: bytes, *, padding: int | None = None, after: bytes = b"", kind: int = 1) -> bytes:
    """00 01 FF … 00 info, with so many FF, or as many as fit."""
    fitting = SIZE - 3 - len(info) - len(after)
    fill = b"\xff" * (fitting if padding is None else padding)
    return b"\0" + bytes([kind]) + fill + b"\0" + info + after


def private_operation(encoded: bytes) -> int:
    numbers = private_key("rsa").private_numbers()
    return int(pow(int.from_bytes(encoded, "big"), numbers.d, numbers.public_numbers.n))


def signature_of(encoded: bytes) -> bytes:
    return private_operation(encoded).to_bytes(SIZE, "big")


def is_accepted(signature: bytes) -> bool:
    try:
        verify(public_der(SCHEME), SCHEME, DATA, signature)
    except SelfCheckFailed as refused:
        return refused.reason != "SIGNATURE_INVALID"
    return True


def test_the_one_right_block_is_accepted() -> None:
    assert is_accepted(signature_of(block(INFO)))


SHORT = SIZE - 3 - len(INFO)
BLOCKS: dict[str, bytes] = {
    "garbage after the digest": block(INFO, padding=8, after=b"\0" * (SHORT - 8)),
    "garbage in place of padding": b"\0\1"
    + b"\xff" * 8
    + b"\0"
    + b"\1" * (SHORT - 9)
    + b"\0"
    + INFO,
    "no padding": b"\0\1\0" + b"\0" * SHORT + INFO,
    "padding of other bytes": block(INFO).replace(b"\xff", b"\xfe"),
    "one byte of padding differs": block(INFO).replace(b"\xff\xff\0", b"\xff\xfe\0"),
    "block type 0": block(INFO, kind=0),
    "block type 2": block(INFO, kind=2),
    "first byte not zero": b"\1" + block(INFO)[1:],
    "parameters left out": block(
        bytes.fromhex("302f300b0609608648016503040201") + b"\4\x20" + DIGEST
    ),
    "long form of a length": block(b"\x30\x81\x31" + INFO[2:]),
    "digest of another hash": block(PREFIX[:14] + b"\2" + PREFIX[15:] + DIGEST),
    "digest without its header": block(DIGEST),
    "digest cut": block(PREFIX + DIGEST[:-1]),
    "digest of other bytes": block(PREFIX + hashlib.sha256(b"other").digest()),
    "content in the parameters": block(
        bytes.fromhex("3035301106096086480165030402010404") + b"junk" + b"\4\x20" + DIGEST
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_are_nearly_right(name: str) -> None:
    assert len(BLOCKS[name]) == SIZE
    assert not is_accepted(signature_of(BLOCKS[name]))


def test_a_signature_is_one_number_of_the_modulus_size() -> None:
    number = private_operation(block(INFO))
    modulus: Any = private_key("rsa").public_key().public_numbers().n
    assert not is_accepted((number + modulus).to_bytes(SIZE + 1, "big"))
    assert not is_accepted(b"\0" + number.to_bytes(SIZE, "big"))
    assert not is_accepted(number.to_bytes(SIZE, "big") + b"\0")
    for trivial in (0, 1, modulus - 1):
        assert not is_accepted(trivial.to_bytes(SIZE, "big"))
