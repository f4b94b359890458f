"""Hashes of files as metadata states them (TUF 4.4 to 4.6).

A client checks every hash that is listed, so one that it cannot compute keeps it from the file.
These are what python-tuf computes everywhere; its others depend on its host, and few other clients
know them.
"""

from __future__ import annotations

import hashlib
import re

# One of them has to be there: every client knows one.
STRONG = ("sha256", "sha384", "sha512")
# Hexadecimal digits by algorithm.
HASH_DIGITS = {"sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128, "blake2b-256": 64}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


def is_hash(algorithm: str, value: str) -> bool:
    """Whether `value` is a hash by a known algorithm: lower-case hex of the right length."""
    return len(value) == HASH_DIGITS.get(algorithm, -1) and bool(_HEX.fullmatch(value))


def what_is_wrong(algorithm: str) -> str:
    """What to do about a value that `is_hash` denies."""
    if algorithm in HASH_DIGITS:
        return f"write {HASH_DIGITS[algorithm]} lower-case hexadecimal digits"
    known = ", ".join(STRONG)
    return f"not every client can compute this hash, and then it refuses the file: use {known}"


def hashes_of(content: bytes) -> dict[str, str]:
    """The hash by every known algorithm."""
    found = {name: hashlib.new(name, content) for name in HASH_DIGITS if name.startswith("sha")}
    blake = hashlib.blake2b(content, digest_size=32).hexdigest()
    return {**{name: each.hexdigest() for name, each in found.items()}, "blake2b-256": blake}
