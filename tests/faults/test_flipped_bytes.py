"""Bytes flipped in ledger, WAL and anchor: refused, or named by verification; never a second use.

`KEYD_TEST_SEED` repeats a run's choices. Flips of the database alone, and what verification makes
of them, are in tests/integration/test_ledger_verification.py.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
from pathlib import Path

import pytest

from keyd.domain.audit import Event
from keyd.errors import KeydError, StateCorrupt
from keyd.ledger.verification.verify import verify_ledger
from tests.ledgers import Home, entry, furnished, reserve, sign
from tests.tally import Promise, tallied

VERSIONS = 12
FILES = ("ledger/ledger.db", "ledger/ledger.db-wal", "anchor/anchor.jsonl")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a ledger that was killed leaves: its newest versions are in the WAL alone."""
    base, copy = tmp_path_factory.mktemp("used"), tmp_path_factory.mktemp("killed") / "base"
    furnished(base).close()
    ledger = Home(base).open()
    for version in range(1, VERSIONS + 1):
        sign(ledger, version)
    shutil.copytree(base, copy, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    ledger.close()
    return copy


def flip(path: Path, dice: random.Random) -> int:
    data = bytearray(path.read_bytes())
    place = dice.randrange(len(data))
    data[place] ^= dice.randint(1, 255)
    path.write_bytes(data)
    return place


def refused(home: Home) -> bool:
    """Try to have another payload for every version that was signed, and a new one.

    Returns whether the ledger refused to work at all. A second payload that is taken fails.
    """
    try:
        ledger = home.open()
    except KeydError:
        return True
    try:
        for version in range(1, VERSIONS + 1):
            with pytest.raises(KeydError):
                ledger.transact(reserve(version, salt="another"))
        try:
            ledger.transact(lambda tx: tx.append(entry(Event.DENIED, {})))
        except KeydError:
            return True
        return False
    finally:
        ledger.close()


def flip_often(killed: Path, count: int, part: int, folder: Path) -> None:
    seed = f"{os.environ.get('KEYD_TEST_SEED') or secrets.token_hex(4)} {part}"
    print(f"KEYD_TEST_SEED={seed}")  # pytest shows it when the test fails
    dice = random.Random(seed)
    refusals = 0
    with tallied(Promise.STATE_GUARDED, "byte flipped in ledger, WAL or anchor") as tally:
        for number in range(count):
            base = folder / "base"
            shutil.copytree(killed, base)
            name = FILES[number % len(FILES)]
            place = flip(base / name, dice)
            print(f"{name} at {place}")
            tally.injected()
            refusals += refused(Home(base))
            shutil.rmtree(base)
    assert refusals, "no flip was noticed at all"


def test_flipped_bytes(killed: Path, tmp_path: Path) -> None:
    flip_often(killed, 30, 0, tmp_path)


def test_a_schema_that_is_no_text_is_named(killed: Path, tmp_path: Path) -> None:
    """SQLite quotes the damage in its message, which then is no UTF-8 either."""
    shutil.copytree(killed, tmp_path / "base")
    home = Home(tmp_path / "base")
    data = home.database.read_bytes()
    damaged = data.replace(b"CREATE TABLE leaves", b"CRE\x9cTE TABLE leaves")
    damaged = damaged.replace(b"tableleavesleaves", b"tablele\x9cvesleaves")
    assert damaged != data
    home.database.write_bytes(damaged)
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        home.open()
    assert not verify_ledger(home.state, anchor=home.anchor).sound


@pytest.mark.slow(seconds=120)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_flipped_bytes(killed: Path, part: int, tmp_path: Path) -> None:
    flip_often(killed, 250, part, tmp_path)
