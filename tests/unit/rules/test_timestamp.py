"""Rules T1 to T3 and C2 for timestamp."""

from __future__ import annotations

from typing import Any

import pytest

from keyd.domain.metadata_file import facts_of
from keyd.domain.payload import Payload
from keyd.domain.rules import references
from keyd.domain.trust import FileFacts, KnownVersion
from tests.unit.rules.world import (
    Bend,
    accepted,
    ask,
    drop,
    known,
    payload,
    put,
    refusals,
    timestamp,
    view,
    warnings,
)

ENTRY = "/meta/snapshot.json"
SHA256, SHA512 = "1f" * 32, "2e" * 64
FILE = FileFacts(400, {"sha256": SHA256})
ALL_FACTS = facts_of(b"a file")


@pytest.mark.parametrize(
    ("bend", "expected"),
    [
        (drop(ENTRY), ["TIMESTAMP_META_WRONG"]),
        (put("/meta/targets.json", {"version": 1}), ["TIMESTAMP_META_WRONG"]),
    ],
)
def test_t1_meta_holds_exactly_the_snapshot(bend: Bend, expected: Any) -> None:
    assert refusals(ask(timestamp(), view("timestamp"), bend=bend)) == expected


@pytest.mark.parametrize(
    ("version", "lowered", "expected"),
    [
        (5, (), []),
        (6, (), []),
        (4, (), ["SNAPSHOT_VERSION_DECREASED"]),
        (4, ("timestamp", "targets"), ["SNAPSHOT_VERSION_DECREASED"]),
        (4, ("snapshot",), []),
    ],
)
def test_t2_snapshot_never_goes_back(version: int, lowered: tuple[str, ...], expected: Any) -> None:
    about = view(
        "timestamp",
        trusted=payload(timestamp(1, 5)),
        known=known(*(accepted("snapshot", number) for number in (4, 5, 6))),
        lowered=frozenset(lowered),
    )
    assert refusals(ask(timestamp(2, version), about)) == expected


@pytest.mark.parametrize("trusted", [payload(timestamp(1, 4)), None])
@pytest.mark.parametrize(
    ("waiting", "expected"), [(5, []), (6, ["SNAPSHOT_VERSION_DECREASED"]), (4, [])]
)
def test_t2_clients_may_see_what_waits_first(
    trusted: Payload | None, waiting: int, expected: Any
) -> None:
    about = view(
        "timestamp",
        high_water=2,
        trusted=trusted,
        pending=payload(timestamp(2, waiting)),
        known=known(accepted("snapshot", 5)),
    )
    assert refusals(ask(timestamp(3, 5), about)) == expected


def test_t2_needs_a_trusted_entry_to_compare_with() -> None:
    trusted = payload({**timestamp(1), "meta": {}})
    assert refusals(ask(timestamp(2), view("timestamp", trusted=trusted))) == []


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (accepted("snapshot", 1), []),
        (KnownVersion("snapshot", 1, "ab" * 32, accepted=False), ["SIGNING_ORDER_WRONG"]),
        (accepted("snapshot", 2), ["SNAPSHOT_UNKNOWN"]),
        (accepted("targets", 1), ["SNAPSHOT_UNKNOWN"]),
    ],
)
def test_t3_the_snapshot_is_recorded_and_accepted(snapshot: KnownVersion, expected: Any) -> None:
    assert refusals(ask(timestamp(1, 1), view("timestamp", known=known(snapshot)))) == expected


@pytest.mark.parametrize(
    ("facts", "file", "refused", "warned"),
    [
        ({"length": 400}, FILE, [], []),
        ({"length": 401}, FILE, ["SNAPSHOT_REFERENCE_MISMATCH"], []),
        ({"length": 400}, None, [], ["HASHES_UNCHECKED"]),
        ({"hashes": {"sha256": SHA256}}, FILE, [], []),
        ({"hashes": {"sha256": SHA256[::-1]}}, FILE, ["SNAPSHOT_REFERENCE_MISMATCH"], []),
        ({"hashes": {"sha256": SHA256.upper()}}, None, ["SNAPSHOT_REFERENCE_MISMATCH"], []),
        ({"hashes": {"sha256": SHA256}}, None, [], ["HASHES_UNCHECKED"]),
        ({"hashes": {"sha256": SHA256, "sha512": SHA512}}, FILE, [], ["HASHES_UNCHECKED"]),
        ({"hashes": {"sha384": "1f" * 48}}, ALL_FACTS, ["SNAPSHOT_REFERENCE_MISMATCH"], []),
        ({"hashes": {"sha224": SHA256}}, FILE, ["SNAPSHOT_REFERENCE_MISMATCH"], []),
        (
            {"length": 1, "hashes": {"sha256": SHA512}},
            FILE,
            ["SNAPSHOT_REFERENCE_MISMATCH"] * 2,
            [],
        ),
    ],
)
def test_t3_length_and_hashes_are_the_files(
    facts: dict[str, Any], file: FileFacts | None, refused: list[str], warned: list[str]
) -> None:
    about = view("timestamp", known=known(accepted("snapshot", 1, file=file)))
    judgement = ask(timestamp(), about, bend=put(ENTRY, {"version": 1, **facts}))
    assert refusals(judgement) == refused
    assert warnings(judgement) == warned


@pytest.mark.parametrize("facts", [{"version": 0}, {"length": -1}, {"hashes": {}}])
@pytest.mark.parametrize("file", [FILE, None])
def test_t3_what_clients_cannot_read_is_refused_for_ever(
    facts: dict[str, Any], file: FileFacts | None
) -> None:
    about = view("timestamp", known=known(accepted("snapshot", 1, file=file)))
    judgement = ask(timestamp(), about, bend=put(ENTRY, {"version": 1, **facts}))
    assert refusals(judgement) == ["REFERENCE_INVALID"]
    assert judgement.findings[0].malformed
    (member,) = facts
    assert judgement.findings[0].pointer == f"{ENTRY}/{member}"


def test_t3_a_hash_that_clients_cannot_compute_is_refused_for_ever() -> None:
    about = view("timestamp", known=known(accepted("snapshot", 1, file=FILE)))
    entry = {"version": 1, "hashes": {"sha256": SHA256, "sha3-256": "00" * 32}}
    judgement = ask(timestamp(), about, bend=put(ENTRY, entry))
    assert refusals(judgement) == ["REFERENCE_INVALID"]
    assert judgement.findings[0].pointer == f"{ENTRY}/hashes/sha3-256"


def test_pointers_name_the_place() -> None:
    about = view("timestamp", known=known(accepted("snapshot", 1, file=FILE)))
    entry = {"version": 1, "hashes": {"sha256": SHA512}}
    judgement = ask(timestamp(), about, bend=put(ENTRY, entry))
    assert judgement.findings[0].pointer == "/meta/snapshot.json/hashes/sha256"


def test_references_of_a_timestamp() -> None:
    assert references(payload(timestamp(1, 7))) == (("snapshot", 7),)
