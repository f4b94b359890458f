"""Broken and foreign objects on a token do not touch the registered keys (reliability D7)."""

from __future__ import annotations

import secrets
import struct
from pathlib import Path

import pytest

from keyd.domain.tokens import TokenState
from tests.fakes import MemoryTokenJournal
from tests.fleets import P256, PATIENCE_S, config_for, make_key, running, sign_one
from tests.softhsm import SoftHSMToken
from tests.tally import Promise, tallied

_CKA_ID = 0x102
_BYTES = 3
_SIZES = {1: 1, 2: 8}  # SoftHSM's object files: booleans and numbers


def object_files(token: SoftHSMToken) -> set[Path]:
    return set((token.directory / "tokens").glob("*/*.object"))


def spoil_id(path: Path) -> bool:
    """Make an encrypted CKA_ID undecipherable; False if this object's is in clear."""
    content = bytearray(path.read_bytes())
    place = 8
    while place + 16 <= len(content):
        attribute, kind = struct.unpack_from(">QQ", content, place)
        place += 16
        size = _SIZES.get(kind, 0)
        if kind == _BYTES:
            (size,) = struct.unpack_from(">Q", content, place)
            place += 8
        if attribute == _CKA_ID and size > 16:
            content[place + size - 1] ^= 0xFF
            path.write_bytes(content)
            return True
        place += size
    return False


@pytest.fixture
def spoilt(softhsm: SoftHSMToken, journal: MemoryTokenJournal) -> SoftHSMToken:
    """A token with one registered key, and a private object that cannot be read."""
    with running(config_for(softhsm), journal=journal) as fleet:
        make_key(fleet.get("test"), journal)
        before = object_files(softhsm)
        fleet.get("test").generate(P256, secrets.token_bytes(16), "stray", PATIENCE_S)
    assert sum(spoil_id(path) for path in object_files(softhsm) - before) == 1
    return softhsm


def test_an_unreadable_object_is_a_stray(spoilt: SoftHSMToken, journal: MemoryTokenJournal) -> None:
    """SoftHSM then fails every search by CKA_ID; the keys are found all the same."""
    [key] = journal.registered
    files = object_files(spoilt)
    with (
        tallied(Promise.TOKENS_RECOVER, "an unreadable object on the token") as tally,
        running(config_for(spoilt), journal=journal) as fleet,
    ):
        tally.injected()
        token = fleet.get("test")
        status = token.status()
        assert (status.state, status.missing_keys) == (TokenState.ONLINE, ())
        # The unreadable private half, and the public half that lost it.
        assert status.strays == 2
        problems = {found.problem for found in token.inventory(PATIENCE_S) if not found.healthy}
        assert "there is no private key" in problems
        sign_one(token, key)
        sign_one(token, make_key(token, journal))
    assert files < object_files(spoilt)
