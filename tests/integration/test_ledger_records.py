"""What is put into the ledger comes back, survives reopening, and keeps its rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from keyd.domain.audit import Event, Leaf
from keyd.domain.keys import Key, KeyState
from keyd.domain.records import (
    Delegation,
    Intent,
    IntentKind,
    IntentState,
    Material,
    OpaqueSignature,
    PinAttempt,
    Repository,
    RequestRecord,
    Role,
    TokenIdentity,
)
from keyd.domain.trust import KeyIdFormula, KeySet, RepositoryState, RoleRules
from keyd.errors import AlreadyExists, StateCorrupt
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.token_journal import LedgerTokenJournal
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.view import SqliteView
from tests.ledgers import (
    KEY,
    LOG_KEY,
    NOW,
    ORIGIN,
    REPOSITORY,
    Home,
    entry,
    furnished,
    refused,
    reservation,
    reserve,
    role_of,
    sign,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = furnished(tmp_path)
    yield made
    made.close()


# --- identity, settings, keys -------------------------------------------------------------------


def test_everything_survives_reopening(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ledger = furnished(tmp_path)
    sign(ledger, 1)
    ledger.transact(lambda tx: tx.put_setting("policy_digest", "x"))

    def everything(ledger: SqliteLedger) -> list[object]:
        return ledger.read(
            lambda v: [
                v.identity(),
                v.keys(),
                v.repositories(),
                v.roles(REPOSITORY),
                v.reservation(REPOSITORY, "targets", 0, 1),
                v.signatures(reservation(1)),
                v.versions(REPOSITORY, [("targets", 1)]),
                v.setting("policy_digest"),
                list(v.leaves(0, 100)),
            ]
        )

    before = everything(ledger)
    ledger.close()
    ledger = home.open()
    assert everything(ledger) == before
    assert ledger.refusal() is None
    ledger.close()


def test_identity_and_genesis(ledger: SqliteLedger) -> None:
    identity = ledger.read(lambda view: view.identity())
    assert (identity.origin, identity.development, identity.created_at) == (ORIGIN, False, NOW)
    genesis = ledger.read(lambda view: list(view.leaves(0, 1)))[0]
    assert b'"event":"genesis"' in genesis.data
    assert identity.ledger_id.encode() in genesis.data


def test_keys_are_found_by_name_and_material(ledger: SqliteLedger) -> None:
    assert ledger.read(lambda view: view.key("signer")) == KEY
    assert ledger.read(lambda view: view.key_by_fingerprint(KEY.fingerprint)) == KEY
    assert ledger.read(lambda view: view.keys()) == (LOG_KEY, KEY)
    assert ledger.read(lambda view: (view.key("x"), view.key_by_fingerprint("x"))) == (None, None)


def test_the_state_of_a_key_changes(ledger: SqliteLedger) -> None:
    suspended = replace(KEY, state=KeyState.SUSPENDED)
    ledger.transact(lambda tx: tx.put_key(suspended))
    assert ledger.read(lambda view: view.key("signer")) == suspended


@pytest.mark.parametrize(
    "changed",
    [
        replace(LOG_KEY, name="signer"),
        replace(KEY, token="other"),
        replace(KEY, name="twin"),
        replace(LOG_KEY, name="same-place", public_der=b"other", cka_id=KEY.cka_id),
    ],
)
def test_nothing_else_of_a_key_changes(ledger: SqliteLedger, changed: Key) -> None:
    assert refused(ledger, lambda tx: tx.put_key(changed)).reason == "KEY_EXISTS"


def test_a_place_on_a_token_is_free_again_when_its_key_is_destroyed(ledger: SqliteLedger) -> None:
    successor: Key = replace(LOG_KEY, name="next", public_der=b"other", cka_id=KEY.cka_id)
    ledger.transact(lambda tx: tx.put_key(replace(KEY, state=KeyState.DESTROYED)))
    ledger.transact(lambda tx: tx.put_key(successor))
    assert ledger.read(lambda view: view.key("next")) == successor


def test_material_belongs_to_the_first_claimant(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> list[object]:
        tx.put_repository(Repository("other", RepositoryState.BOOTSTRAP, False, False, NOW))
        first = tx.claim_material("a" * 64, REPOSITORY, "root")
        second = tx.claim_material("a" * 64, "other", "targets")
        third = tx.claim_material("a" * 64, REPOSITORY, "delegated")
        return [first, second, third, tx.material("a" * 64), tx.material("b" * 64)]

    uses = frozenset({"root", "delegated"})
    assert ledger.transact(work) == [
        REPOSITORY,
        REPOSITORY,
        REPOSITORY,
        Material(REPOSITORY, uses),
        None,
    ]


def test_delegations_are_replaced_and_found(ledger: SqliteLedger) -> None:
    one, bins = Delegation("role1", "a" * 64), Delegation("bin", "a" * 64, bit_length=4)
    ledger.transact(lambda tx: tx.put_delegations(REPOSITORY, "targets", [one, bins]))
    ledger.transact(
        lambda tx: tx.put_delegations(REPOSITORY, "role1", [replace(one, fingerprint="b" * 64)])
    )
    assert ledger.read(lambda view: view.delegations_of_key("a" * 64)) == (
        (REPOSITORY, bins),
        (REPOSITORY, one),
    )
    named_by = ledger.read(lambda view: view.delegators_of(REPOSITORY, "role1"))
    assert named_by == ("role1", "targets")
    roles = ("bin-f", "bin-0", "bin-10", "bin-", "bin", "other")
    found = ledger.read(lambda view: [view.delegators_of(REPOSITORY, role) for role in roles])
    assert found == [("targets",), ("targets",), (), (), (), ()]
    ledger.transact(lambda tx: tx.put_delegations(REPOSITORY, "targets", [bins]))
    assert ledger.read(lambda view: view.delegators_of(REPOSITORY, "role1")) == ("role1",)


# --- repositories and roles ---------------------------------------------------------------------


def test_revisions_rise_with_every_change(ledger: SqliteLedger) -> None:
    def revisions() -> tuple[int, int]:
        found = ledger.read(lambda view: view.repository(REPOSITORY))
        assert found is not None
        return found.revision, role_of(ledger).revision

    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets")))
    repository, role = revisions()
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", trusted_version=0)))
    assert revisions() == (repository + 1, role + 1)
    ledger.transact(reserve(1))
    assert revisions()[1] > role + 1


def test_roles_and_repositories_keep_all_their_fields(ledger: SqliteLedger) -> None:
    rules = RoleRules(expiry_min_s=5, keyid_formula=KeyIdFormula.UNCHECKED, extra_members=("x",))
    role = Role(REPOSITORY, "targets", 2, 7, 6, "d" * 64, rules)
    intended = KeySet("bootstrap", 2, {"k1": "a" * 64, "k2": "b" * 64})
    other = Repository("other", RepositoryState.BOOTSTRAP, True, True, NOW, intended)
    ledger.transact(lambda tx: tx.put_role(role))
    ledger.transact(lambda tx: tx.put_repository(other))
    assert replace(role_of(ledger), revision=0) == role
    found = ledger.read(lambda view: view.repository("other"))
    assert found == replace(other, revision=1)
    assert [r.name for r in ledger.read(lambda view: view.repositories())] == [REPOSITORY, "other"]
    assert ledger.read(lambda view: view.roles("other")) == ()


@pytest.mark.parametrize(
    "lowered", [Role(REPOSITORY, "targets", 1, 8), Role(REPOSITORY, "targets", 0, 9)]
)
def test_marks_and_epochs_only_rise(ledger: SqliteLedger, lowered: Role) -> None:
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", 1, 9)))
    assert refused(ledger, lambda tx: tx.put_role(lowered)).reason == "LEDGER_INVARIANT"
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", 2, 1)))
    assert role_of(ledger).high_water == 1


def test_development_is_for_ever(ledger: SqliteLedger) -> None:
    promoted = Repository(REPOSITORY, RepositoryState.ACTIVE, True, False, NOW)
    assert refused(ledger, lambda tx: tx.put_repository(promoted)).reason == "LEDGER_INVARIANT"


# --- the rest -----------------------------------------------------------------------------------


def test_requests_intents_and_opaque_signatures(ledger: SqliteLedger) -> None:
    request = RequestRecord("ci", "r1", "b" * 64, "demo/targets/0/1", NOW)
    opened = Intent(2, IntentKind.GENERATE, "k", "token soft", "", IntentState.OPEN)
    reserved = OpaqueSignature("signer", "d" * 64, None, 2, NOW)
    signed = replace(reserved, signature=b"s", leaf=3)

    def work(tx: SqliteTransaction) -> None:
        tx.put_request(request)
        tx.put_intent(opened)
        tx.put_opaque(reserved)

    ledger.transact(work)
    assert ledger.read(lambda view: view.request("ci", "r1")) == request
    assert ledger.read(lambda view: view.request("ci", "r2")) is None
    assert ledger.read(lambda view: view.open_intents()) == (opened,)
    assert ledger.read(lambda view: view.opaque("signer", "d" * 64)) == reserved
    ledger.transact(lambda tx: tx.put_opaque(signed))
    ledger.transact(lambda tx: tx.put_opaque(replace(signed, signature=b"other")))
    ledger.transact(lambda tx: tx.put_intent(replace(opened, state=IntentState.ABANDONED)))
    assert ledger.read(lambda view: view.opaque("signer", "d" * 64)) == signed
    assert ledger.read(lambda view: view.open_intents()) == ()


def test_a_transaction_reads_its_own_writes_and_others_do_not(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        before = tx.log_size()
        made = reserve(1)(tx)
        assert tx.reservation(REPOSITORY, "targets", 0, 1) == made
        assert tx.log_size() == before + 1
        leaves = list(tx.leaves(0, 100))
        assert [leaf.index for leaf in leaves] == list(range(before + 1))
        assert b"signature_intended" in leaves[-1].data
        assert ledger.read(lambda view: view.log_size()) == before
        assert ledger.read(lambda view: view.role(REPOSITORY, "targets")) is None

    ledger.transact(work)
    assert role_of(ledger).high_water == 1


def test_a_view_ends_with_its_read(ledger: SqliteLedger) -> None:
    leaves = ledger.read(lambda view: view.leaves(0, 2))
    with pytest.raises(RuntimeError, match="has ended"):
        next(leaves)
    kept: list[SqliteTransaction] = []
    ledger.transact(kept.append)
    with pytest.raises(RuntimeError, match="has ended"):
        kept[0].keys()


def test_pages_of_leaves(ledger: SqliteLedger) -> None:
    ledger.transact(
        lambda tx: [tx.append(entry(Event.DENIED, {"n": n})) for n in range(600)],
    )

    def page(start: int, end: int) -> list[Leaf]:
        return ledger.read(lambda view: list(view.leaves(start, end)))

    assert [leaf.index for leaf in page(100, 590)] == list(range(100, 590))
    assert [leaf.index for leaf in page(600, 9999)] == list(range(600, 604))
    assert page(604, 700) == []
    assert page(5, 5) == []


def test_a_damaged_payload_stops_all_writing(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    made = sign(ledger, 1)
    ledger.transact(
        lambda tx: tx._execute("UPDATE payloads SET data = ? WHERE digest = ?", (b"x", made.digest))
    )
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        ledger.read(lambda view: view.payload(made.digest))
    assert (ledger.refusal() or "").startswith("LEDGER_CORRUPT")
    with pytest.raises(StateCorrupt, match="LEDGER_CORRUPT"):
        ledger.transact(reserve(2))
    ledger.close()


def test_token_journal(ledger: SqliteLedger, tmp_path: Path) -> None:
    journal = LedgerTokenJournal(ledger)
    identity = TokenIdentity("soft", "1234", "label", "SoftHSM", "v2")
    attempt = PinAttempt("soft", "random", False, NOW, {"where": "boot"})
    assert (journal.identity("soft"), journal.pin_attempt("soft")) == (None, None)
    journal.pin_identity(identity)
    journal.pin_identity(identity)
    with pytest.raises(AlreadyExists, match="TOKEN_IDENTITY_CHANGED"):
        journal.pin_identity(replace(identity, serial="9"))
    journal.record_pin_attempt(attempt, "soft")
    journal.record_pin_attempt(replace(attempt, rejected=True), "soft")
    journal.record_quarantine("soft", "strange")
    ledger.close()
    reopened = Home(tmp_path).open()
    journal = LedgerTokenJournal(reopened)
    assert journal.identity("soft") == identity
    assert journal.pin_attempt("soft") == replace(attempt, rejected=True)
    assert journal.quarantined("soft") == "strange"
    assert journal.keys("soft") == (LOG_KEY, KEY)
    assert journal.keys("hard") == ()
    journal.record_pin_attempt(None, "soft")
    journal.record_quarantine("soft", None)
    assert (journal.pin_attempt("soft"), journal.quarantined("soft")) == (None, None)
    reopened.close()


def test_what_is_read_ahead_is_what_would_be_read(ledger: SqliteLedger) -> None:
    record = RequestRecord("unix:ci", "id-1", "0" * 64, "signed", NOW)
    other = replace(record, principal="unix:other", outcome="other")
    ledger.transact(reserve(1))
    for each in (record, other):
        ledger.transact(partial(SqliteTransaction.put_request, record=each))
    roles = [(REPOSITORY, "targets"), (REPOSITORY, "no such role"), ("none", "targets")]
    requests = [("unix:ci", "id-1"), ("unix:ci", 'id"2'), ("unix:other", "id-1")]

    def read(view: SqliteView) -> list[object]:
        return [*(view.role(*each) for each in roles), *(view.request(*each) for each in requests)]

    def read_ahead(view: SqliteView) -> list[object]:
        view.expect(roles, requests)
        return read(view)

    found = ledger.read(read_ahead)
    assert found == ledger.read(read)
    assert [each is None for each in found] == [False, True, True, False, True, False]
