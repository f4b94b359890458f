"""kill -9 while a key is destroyed: its objects go, no other does, and the log verifies."""

from __future__ import annotations

import pytest

from keyd.cli.case import case_of
from keyd.domain import operations
from keyd.domain.officers import OfficerSet
from keyd.domain.operations import ChangeKeyState
from keyd.ledger.verification.verify import verify_ledger
from keyd.rpc.convert_officers import officers_out
from keyd_client import Client
from keyd_client.messages import label
from tests.daemon import TOKEN, Installation
from tests.faults.crashing import Crashing
from tests.officers import person
from tests.recording import entries_of

PEOPLE = [person(name) for name in ("ann", "ben", "cat")]
# How many of the pair's two objects the kill leaves.
PLACES = {
    "key.deletion_announced:1": 2,
    "key.objects_deleted:1": 0,
    "key.deletion_recorded:1": 0,
    "ledger.group_written:1": 2,
    "ledger.group_written:2": 0,
    "ledger.group_committed:1": 2,
    "ledger.group_committed:2": 0,
}


def objects(installation: Installation) -> frozenset[str]:
    """SoftHSM's files, one for each object, whoever may see it."""
    return frozenset(str(file) for file in installation.softhsm.rglob("*.object"))


def approved(client: Client) -> str:
    """A proposal to destroy the key "old", approved by two officers."""
    client.officers.enrol_first(officers_out(OfficerSet(tuple(each.officer for each in PEOPLE))), 2)
    client.keys.deactivate("old")
    fingerprint = client.keys.get("old").key_sha256.hex()
    operation = ChangeKeyState("old", fingerprint, "DEACTIVATED", "DESTROYED")
    name = client.proposals.create(operations.encode(operation)).name
    for each in PEOPLE[:2]:
        basis = case_of(client.proposals.get(name), None).basis
        client.proposals.decide(name, each.envelope(basis))
    return name


def check_afterwards(installation: Installation, client: Client) -> None:
    told = [entry for entry in entries_of(client) if entry["event"] == "key_deleted"]
    assert [entry["key"] for entry in told] == ["old"]
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws
    assert report.open_intents == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_destroyed_key_leaves_no_object(installation: Installation, place: str) -> None:
    with Crashing(installation, place) as crashing:
        with installation.client() as client:
            before = objects(installation)
            client.keys.create("old", TOKEN)
            pair = objects(installation) - before
            assert len(pair) == 2
            name = approved(client)
            assert crashing.interrupt(client, lambda: client.proposals.execute(name)) is not None
            assert len(pair & objects(installation)) == PLACES[place]
        with installation.client() as client:
            client.proposals.execute(name)
            assert objects(installation) == before
            assert label(client.keys.get("old"), "state") == "DESTROYED"
            assert client.keys.create("young", TOKEN).name == "young"
            check_afterwards(installation, client)
