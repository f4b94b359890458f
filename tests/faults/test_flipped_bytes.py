"""Single bytes of the ledger's files are flipped: refused, named, or what was signed is whole (B7).

An operator sees LEDGER_CORRUPT, LEDGER_BEHIND_ANCHOR or ANCHOR_CORRUPT, or what `keyd audit verify`
names; a second payload for a version is not to be had whatever was flipped.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.keys import Key
from keyd.errors import KeydError
from keyd.ledger.verification.verify import verify_ledger
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.faults.killing import new_seed
from tests.ledgers import Home
from tests.tally import Promise, tallied
from tests.worlds import Author, active_author, open_world

FILES = ("ledger/ledger.db", "ledger/ledger.db-wal", "anchor/anchor.jsonl")
VERSIONS = 12
SIGNED = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2",
    "SELECT * FROM identity",
    "SELECT * FROM leaves ORDER BY position",
    "SELECT * FROM nodes ORDER BY position",
    "SELECT * FROM checkpoints ORDER BY size",
    "SELECT * FROM keys ORDER BY name",
    "SELECT * FROM payloads ORDER BY digest",
    "SELECT * FROM reservations ORDER BY id",
    "SELECT * FROM signatures ORDER BY reservation, fingerprint",
    "SELECT * FROM opaque_signatures ORDER BY key, digest",
    "SELECT * FROM intents ORDER BY leaf",
    "SELECT * FROM delegations ORDER BY 1, 2, 3, 4, 5",
    "SELECT * FROM lost_versions ORDER BY 1, 2, 3, 4",
    (
        "SELECT repository, role, epoch, version, digest, accepted, imported FROM versions "
        "ORDER BY 1, 2, 3, 4"
    ),
    (
        "SELECT repository, name, epoch, high_water, trusted_version, trusted_digest FROM roles "
        "ORDER BY 1, 2"
    ),
    (
        "SELECT name, state, development, imported, created_at, intended_root FROM repositories "
        "ORDER BY 1"
    ),
)
# What no entry determines, and verify therefore does not compare: docs/reference/audit-log.md.
OUTCOMES = ("refused", "named", "harmless", "beside what the log determines")


@dataclass(frozen=True)
class Used:
    """The files of a ledger, with a WAL as kill -9 leaves them or closed, and who signed in it."""

    base: Path
    files: Mapping[str, bytes]
    token: SoftwareToken
    keys: Mapping[str, Key]
    content: str
    signed: list[list[tuple[object, ...]]]

    def put(self, changed: Mapping[str, bytes]) -> None:
        """Write all files anew, some of them changed."""
        for folder in ("ledger", "anchor"):
            shutil.rmtree(self.base / folder, ignore_errors=True)
            (self.base / folder).mkdir(mode=0o700)
        for name, content in (dict(self.files) | dict(changed)).items():
            (self.base / name).write_bytes(content)
            (self.base / name).chmod(0o600)


@pytest.fixture(params=["killed", "closed"])
def used(in_memory: Path, request: pytest.FixtureRequest) -> Used:
    base = in_memory / "base"
    base.mkdir(mode=0o700)
    token = SoftwareToken("soft", TestClock())
    world = open_world(base, tokens=FakeTokens(token))
    author = active_author(world)
    world.ledger.close()
    world = open_world(base, tokens=FakeTokens(token))
    author = Author(world, "demo", author.keys)
    for version in range(2, VERSIONS + 1):
        author.sign("timestamp", "timestamp", author.timestamp(version))
    killed = {name: (base / name).read_bytes() for name in FILES}
    world.ledger.close()
    assert all(killed.values())
    closed = {name: (base / name).read_bytes() for name in FILES if (base / name).exists()}
    assert len(closed) == len(FILES) - 1, "the WAL went into the database"
    files = killed if request.param == "killed" else closed
    made = Used(base, files, token, author.keys, content_of(base), what_was_signed(base))
    made.put({})
    assert verify_ledger(Home(base).state, anchor=Home(base).anchor).sound
    return made


def content_of(base: Path) -> str:
    """Every row of every table, or an empty text if it cannot be read."""
    path = Home(base).database
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return "\n".join(database.iterdump())
    except (sqlite3.Error, UnicodeDecodeError):
        return ""


def what_was_signed(base: Path) -> list[list[tuple[object, ...]]]:
    """The schema, the log, and every record that follows from its entries."""
    path = Home(base).database
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [database.execute(query).fetchall() for query in SIGNED]


def flips(files: Mapping[str, bytes], count: int, seed: str) -> Iterator[tuple[str, int, bytes]]:
    """File, place and the file's new content."""
    dice = random.Random(seed)
    for _ in range(count):
        name = dice.choice(sorted(files))
        content = bytearray(files[name])
        place = dice.randrange(len(content))
        content[place] ^= dice.randint(1, 255)
        yield name, place, bytes(content)


def outcome_of(used: Used) -> str:
    """One of OUTCOMES, or `unnoticed: ...`, which must not be."""
    home = Home(used.base)
    try:
        ledger = home.open()
        refusal = ledger.refusal()
        ledger.close()
    except KeydError:
        return "refused"
    if refusal is not None:
        return "refused"
    if not verify_ledger(home.state, anchor=home.anchor).sound:
        return "named"
    found = content_of(used.base)
    if found == used.content:
        return "harmless"
    if what_was_signed(used.base) == used.signed:
        return "beside what the log determines"
    changed = set(used.content.splitlines()) - set(found.splitlines())
    return f"unnoticed: {sorted(changed)}"


def second_payloads(used: Used) -> list[int]:
    """The versions for which other bytes were signed."""
    clock = TestClock()
    try:
        world = open_world(used.base, clock=clock, tokens=FakeTokens(used.token))
    except KeydError:
        return []
    found = []
    author = Author(world, "demo", used.keys)
    for version in (1, 2, VERSIONS - 1, VERSIONS):
        other = author.timestamp(version) | author.common("timestamp", version, days=0.25)
        with suppress(KeydError):
            author.sign("timestamp", "timestamp", canonical.encode(other))
            found.append(version)
    with suppress(KeydError):
        world.ledger.close()
    return found


def flip(used: Used, count: int) -> None:
    seed = new_seed()
    outcomes: Counter[str] = Counter()
    fault = "a flipped byte in ledger, WAL or anchor"
    with (
        tallied(Promise.STATE_GUARDED, fault) as guarded,
        tallied(Promise.ONE_PAYLOAD, fault) as bound,
    ):
        for name, place, content in flips(used.files, count, seed):
            used.put({name: content})
            outcome = outcome_of(used)
            outcomes[f"{Path(name).name}: {outcome}"] += 1
            assert outcome in OUTCOMES, (name, place, outcome)
            # Last: refusals are recorded.
            assert not second_payloads(used), (name, place, outcome)
            guarded.injected()
            bound.injected()
        print(dict(outcomes))


def test_other_bytes_are_signed_where_nothing_is_remembered(used: Used) -> None:
    """The look for a second payload bites: in a new version other bytes are accepted."""
    world = open_world(used.base, tokens=FakeTokens(used.token))
    author = Author(world, "demo", used.keys)
    other = author.timestamp(VERSIONS + 1) | author.common("timestamp", VERSIONS + 1, days=0.25)
    author.sign("timestamp", "timestamp", canonical.encode(other))
    world.ledger.close()
    assert content_of(used.base) != used.content


def test_a_schema_that_is_no_text_is_a_typed_refusal(used: Used) -> None:
    content = used.files["ledger/ledger.db"]
    used.put({"ledger/ledger.db": content.replace(b"CREATE TRIGGER", b"CREATE \xa0RIGGER")})
    assert outcome_of(used) == "refused"
    home = Home(used.base)
    assert not verify_ledger(home.state, anchor=home.anchor).sound


def test_flipped_bytes(used: Used) -> None:
    flip(used, 20)


@pytest.mark.slow(seconds=10)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(2))
def test_a_thousand_flipped_bytes(used: Used, part: int) -> None:
    flip(used, 250)
