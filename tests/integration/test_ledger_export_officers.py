"""Exported decisions: verified again and counted again, even where the log's key signed a lie."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.domain import approval, dsse
from keyd.domain.audit import Checkpoint
from keyd.domain.checkpoint import LogKey, parse_checkpoint, signed, text_of
from keyd.domain.merkle import Frontier, leaf_hash
from keyd.ledger.verification.export import export_log
from keyd.ledger.verification.exported import verify_export
from tests.ledgers import Home, der
from tests.used_ledger import use

Entries = list[dict[str, Any]]
FORGER = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("used")
    use(base)
    export_log(Home(base).state, base / "export")
    return base / "export"


class Forgery:
    """A copy of an export by somebody who can sign checkpoints in the log's name."""

    def __init__(self, exported: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(exported, folder / "forged"))
        self.lines = (exported / "entries.jsonl").read_bytes().splitlines()
        self.entries: Entries = [json.loads(line) for line in self.lines]
        self._origin = parse_checkpoint((exported / "checkpoint.txt").read_text()).origin

    def flaws(self, *changed: dict[str, Any]) -> list[str]:
        """What verification says once these entries stand in their places, all signed anew."""
        lines = list(self.lines)
        for entry in changed:
            lines[entry["index"]] = json.dumps(entry, separators=(",", ":")).encode()
        (self.folder / "entries.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        frontier = Frontier()
        for line in lines:
            frontier.append(leaf_hash(line))
        head = Checkpoint(self._origin, frontier.size, frontier.root())
        key = LogKey(self._origin, der(FORGER))
        note = signed(head, key, FORGER.sign(text_of(head))).note
        (self.folder / "checkpoint.txt").write_text(note)
        return [str(flaw) for flaw in verify_export(self.folder, key).flaws]

    def of(self, event: str, **members: object) -> Entries:
        """The entries of an event with these members."""
        return [
            entry
            for entry in self.entries
            if entry["event"] == event and members.items() <= entry.items()
        ]

    def executed(self, kind: str) -> tuple[dict[str, Any], Entries, dict[str, Any]]:
        """A proposal that was carried out: its creation, its decisions, its end."""
        for created in self.of("proposal_created", kind=kind):
            name = created["proposal"]
            for ended in self.of("proposal_ended", proposal=name, state="EXECUTED"):
                return created, self.of("proposal_decided", proposal=name), ended
        raise AssertionError(f"nothing of {kind} was executed")


@pytest.fixture
def forgery(exported: Path, tmp_path: Path) -> Forgery:
    return Forgery(exported, tmp_path)


def blank(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry that says nothing, in the place of another."""
    kept = {name: entry[name] for name in ("index", "time", "principal", "request_id")}
    return {**kept, "event": "denied", "method": "", "subject": "", "reason": ""}


def test_an_honest_copy_is_sound(forgery: Forgery) -> None:
    assert forgery.flaws() == []
    assert len(forgery.of("proposal_decided")) > 10


def fewer(f: Forgery) -> Entries:
    return [blank(f.executed("change_officer")[1][0])]


def turned(f: Forgery) -> Entries:
    return [{**f.of("proposal_decided", decision="reject")[0], "decision": "approve"}]


def badly_signed(f: Forgery) -> Entries:
    entry = f.executed("set_base_rule")[1][0]
    found = dsse.decode(base64.b64decode(entry["envelope"]))
    bent = dsse.Envelope(found.payload_type, found.payload, found.keyid, bytes(64))
    return [{**entry, "envelope": base64.b64encode(dsse.encode(bent)).decode()}]


def replayed(f: Forgery) -> Entries:
    first, second = f.of("proposal_decided", decision="approve", officer="ann")[:2]
    return [{**second, "envelope": first["envelope"]}]


def by_another(f: Forgery) -> Entries:
    first, second = f.executed("change_officer")[1][:2]
    return [{**second, "officer": first["officer"]}]


def weaker_rule(f: Forgery) -> Entries:
    return [{**f.executed("void_reservation")[0], "rules": ["base: 1 officer"]}]


def longer_life(f: Forgery) -> Entries:
    return [{**f.executed("sign_metadata")[0], "expires": "2039-01-01T00:00:00Z"}]


def other_payload(f: Forgery) -> Entries:
    created = f.executed("sign_metadata")[0]
    digest = "ab" * 32
    operation = created["operation"].replace(created["payload_sha256"], digest)
    return [{**created, "operation": operation, "payload_sha256": digest}]


def later_end(f: Forgery) -> Entries:
    return [{**f.executed("sign_metadata")[2], "time": "2039-01-01T00:00:00.000000+00:00"}]


def no_proposal(f: Forgery) -> Entries:
    return [blank(f.executed("change_officer")[2])]


def rule_from_nowhere(f: Forgery) -> Entries:
    return [{**f.of("base_rule_set")[1], "threshold": 1}]


def stranger(f: Forgery) -> Entries:
    """One of the first officers gets the forger's key."""
    first = f.of("officer_changed")[0]
    document = json.loads(first["document"])
    document["keys"][0]["public"] = der(FORGER).hex()
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return [{**first, "document": text}]


def foreign(f: Forgery) -> Entries:
    return [{**f.entries[0], "ledger_id": "another"}]


def twice_executed(f: Forgery) -> Entries:
    name = f.executed("change_officer")[0]["proposal"]
    return [{**f.of("proposal_ended", state="REJECTED")[0], "proposal": name, "state": "EXECUTED"}]


def void_of_another(f: Forgery) -> Entries:
    return [{**f.of("reservation_voided")[0], "version": 3}]


def root_unasked(f: Forgery) -> Entries:
    return [blank(f.executed("sign_metadata")[2])]


def half_a_succession(f: Forgery) -> Entries:
    return [blank(f.of("officer_changed", officer="dan")[-1])]


def uninvited(f: Forgery) -> Entries:
    return [blank(f.executed("succeed_officer")[2])]


def destroyed_unasked(f: Forgery) -> Entries:
    ended = [
        f.of("proposal_ended", proposal=e["proposal"])[0]
        for e in f.of("proposal_created", kind="change_key_state")
    ]
    return [blank(ended[-1])]


def restored_unasked(f: Forgery) -> Entries:
    return [blank(f.executed("change_key_state")[2])]


def condemned_before(f: Forgery) -> Entries:
    """A key that signed a root had been marked compromised."""
    [spare] = f.of("key_state_changed", key="spare", to="COMPROMISED")
    return [{**spare, "key": "root-1"}]


LIES: list[tuple[Callable[[Forgery], Entries], str]] = [
    (fewer, "without the approvals that it needs"),
    (turned, "the signed statement says otherwise"),
    (badly_signed, "is not signed by the key of"),
    (replayed, "the approval is for another proposal"),
    (by_another, "decides it once more"),
    (weaker_rule, "rests on another rules_sha256"),
    (longer_life, "rests on another expires"),
    (other_payload, "rests on another operation_sha256 and payload_sha256"),
    (later_end, "it was executed after its end"),
    (no_proposal, "no proposal that officers approved allows it"),
    (root_unasked, "no proposal that officers approved allows it"),
    (rule_from_nowhere, "no proposal that officers approved allows it"),
    (stranger, "it rests on other officers than there were"),
    (foreign, "the approval is meant for another daemon"),
    (twice_executed, "ends what was not open"),
    (void_of_another, "no proposal that officers approved allows it"),
    (half_a_succession, "it was executed, but what it allows was not recorded"),
    (uninvited, "no proposal that officers approved allows it"),
    (destroyed_unasked, "no proposal that officers approved allows it"),
    (restored_unasked, "no proposal that officers approved allows it"),
    (condemned_before, "a compromised key was used without officers"),
]


@pytest.mark.parametrize(("lie", "found"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_that_the_log_key_signed_is_found(
    forgery: Forgery, lie: Callable[[Forgery], Entries], found: str
) -> None:
    assert any(found in flaw for flaw in forgery.flaws(*lie(forgery)))


# An end that did nothing, and whatever was left out without a trace, only the checkpoint holds.
DECIDING = (
    "officer_changed",
    "base_rule_set",
    "reservation_voided",
    "proposal_created",
    "proposal_decided",
)

# Nothing signed tells when an entry was written (as long as it was before the proposal's end), who
# handed a decision in, or which entry had bound a version: only the checkpoint holds these.
UNBOUND = {"time", "principal", "request_id", "intent"}


def test_every_other_member_of_every_entry_about_officers_is_bound(forgery: Forgery) -> None:
    tried, missed = 0, []
    for entry in forgery.entries:
        if entry["event"] not in DECIDING:
            continue
        carried_out = forgery.of("proposal_ended", proposal=entry.get("proposal"), state="EXECUTED")
        left_out = {"event"} if "proposal" in entry and not carried_out else set()
        for member in entry.keys() - UNBOUND - left_out:
            tried += 1
            if not forgery.flaws({**entry, member: other(entry[member])}):
                missed.append((entry["event"], entry["index"], member))
    assert tried > 200
    assert missed == []


def other(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value, "more: 1 officer"]
    return f"{value}x"


def test_a_proposer_cannot_be_made_an_approver(forgery: Forgery) -> None:
    """The entry says that nobody of the officers proposed it; their names under which they call
    say otherwise."""
    decided = forgery.of("proposal_decided", officer="ann")[-1]
    [created] = forgery.of("proposal_created", proposal=decided["proposal"])
    flaws = forgery.flaws({**created, "principal": "unix:ann"})
    assert any("differs in officer" in flaw for flaw in flaws)


def test_statements_in_exports_can_be_read_by_anybody(forgery: Forgery) -> None:
    for entry in forgery.of("proposal_decided"):
        statement, _ = approval.read(base64.b64decode(entry["envelope"]))
        assert statement.basis.daemon == forgery.entries[0]["ledger_id"]
