"""kill -9 while a key is made that officers approved: the approval makes one key, and never two."""

from __future__ import annotations

import pytest

from keyd.cli.case import case_of
from keyd.domain import operations
from keyd.domain.officers import OfficerSet
from keyd.domain.operations import CreateKey
from keyd.ledger.verification.verify import verify_ledger
from keyd.rpc.convert_officers import officers_out
from keyd_client import Client, KeydClientError
from keyd_client.messages import label
from tests.daemon import TOKEN, Installation
from tests.faults.crashing import Crashing
from tests.officers import person
from tests.recording import entries_of

PEOPLE = [person(name) for name in ("ann", "ben", "cat")]
_QUORUM = """
[[quorum]]
name = "keys"
methods = ["KeyService.CreateKey"]
any_key = true
any_token = true
officers = 2
"""
# Whether the key is there after the kill.
PLACES = {
    "key.after_intent:1": False,
    "key.after_generate:1": False,
    "key.before_answer:1": True,
    "ledger.group_written:1": False,
    "ledger.group_written:2": False,
    "ledger.group_committed:1": False,
    "ledger.group_committed:2": True,
}


def approved(client: Client) -> str:
    """A proposal to make the key "new", approved by two officers."""
    client.officers.enrol_first(officers_out(OfficerSet(tuple(each.officer for each in PEOPLE))), 2)
    operation = CreateKey("new", TOKEN, "ed25519", 0, "tuf")
    name = client.proposals.create(operations.encode(operation)).name
    for each in PEOPLE[:2]:
        basis = case_of(client.proposals.get(name), None).basis
        client.proposals.decide(name, each.envelope(basis))
    return name


def check_afterwards(installation: Installation, client: Client, name: str) -> None:
    told = [entry["key"] for entry in entries_of(client) if entry["event"] == "key_created"]
    assert told.count("new") == 1
    assert label(client.proposals.get(name).proposal, "state") == "EXECUTED"
    with pytest.raises(KeydClientError, match="KEY_EXISTS"):
        client.proposals.execute(name)
    report = verify_ledger(installation.ledger, anchor=installation.anchor)
    assert report.sound, report.flaws
    assert report.open_intents == 0


@pytest.mark.parametrize("place", PLACES)
def test_one_key_comes_of_an_approval(installation: Installation, place: str) -> None:
    installation.policy.write_text(installation.policy.read_text() + _QUORUM)
    with Crashing(installation, place) as crashing:
        with installation.client() as client:
            name = approved(client)
            assert crashing.interrupt(client, lambda: client.proposals.execute(name)) is not None
        with installation.client() as client:
            made = label(client.proposals.get(name).proposal, "state") == "EXECUTED"
            assert made is PLACES[place]
            if not made:
                client.proposals.execute(name)
            check_afterwards(installation, client, name)
