"""What is put into the ledger comes back, survives reopening, and keeps its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    ReservationState,
    Role,
    StoredSignature,
    TokenIdentity,
    VersionRecord,
)
from keyd.domain.trust import FileFacts, KeyIdFormula, KeySet, RepositoryState, RoleRules
from keyd.errors import AlreadyExists, Equivocation, KeydError, PolicyViolation, StateCorrupt
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
    complete,
    digest,
    entry,
    furnished,
    named,
    payload,
    reservation,
    reserve,
    role_of,
    sign,
)

Work = Callable[[SqliteTransaction], object]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = furnished(tmp_path)
    yield made
    made.close()


def refused(ledger: SqliteLedger, work: Work) -> KeydError:
    """What the work is refused with; that nothing of it is stored."""
    before = ledger.read(lambda view: view.log_size())
    with pytest.raises(KeydError) as caught:
        ledger.transact(work)
    assert ledger.read(lambda view: view.log_size()) == before
    return caught.value


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


# --- versions -----------------------------------------------------------------------------------


def test_a_version_is_bound_to_one_payload(ledger: SqliteLedger) -> None:
    sign(ledger, 1)
    error = refused(ledger, reserve(1, salt="other"))
    assert isinstance(error, Equivocation)
    assert error.reason == "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    assert refused(ledger, reserve(1, salt="other", epoch=0)).reason == error.reason


def test_a_reservation_raises_the_mark_and_only_above_it(ledger: SqliteLedger) -> None:
    ledger.transact(reserve(5))
    assert role_of(ledger).high_water == 5
    error = refused(ledger, reserve(4))
    assert isinstance(error, PolicyViolation)
    assert error.reason == "VERSION_NOT_INCREASING"


def test_what_was_signed_elsewhere_may_be_older(ledger: SqliteLedger) -> None:
    ledger.transact(reserve(5))
    old = reservation(4)

    def take_in(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.METADATA_IMPORTED, named(old)))
        tx.put_reservation(replace(old, leaf=leaf), payload(4))
        tx.put_reservation(replace(old, state=ReservationState.ACCEPTED), payload(4))

    ledger.transact(take_in)
    assert role_of(ledger).high_water == 5
    known = ledger.read(lambda view: view.versions(REPOSITORY, [("targets", 4), ("targets", 5)]))
    assert {v: r.accepted for (_, v), r in known.items()} == {4: True, 5: False}


def test_a_voided_version_can_be_bound_anew_and_is_remembered(ledger: SqliteLedger) -> None:
    made = ledger.transact(reserve(3))
    ledger.transact(
        lambda tx: tx.put_reservation(replace(made, state=ReservationState.VOIDED), payload(3))
    )
    assert ledger.read(lambda view: view.reservation(REPOSITORY, "targets", 0, 3)) is None
    again = ledger.transact(reserve(3, salt="new"))
    assert ledger.read(lambda view: view.reservation(REPOSITORY, "targets", 0, 3)) == again
    assert ledger.read(lambda view: view.payload(made.digest)) == payload(3)


def test_a_rebound_version_passes_the_anchor(tmp_path: Path) -> None:
    ledger = furnished(tmp_path)
    made = ledger.transact(reserve(3))
    ledger.transact(
        lambda tx: tx.put_reservation(replace(made, state=ReservationState.VOIDED), payload(3))
    )
    ledger.transact(reserve(3, salt="new"))
    ledger.close()
    ledger = Home(tmp_path).open()
    assert ledger.refusal() is None
    ledger.close()


@pytest.mark.parametrize("state", [ReservationState.SIGNED, ReservationState.VOIDED])
def test_reservations_do_not_go_back(ledger: SqliteLedger, state: ReservationState) -> None:
    back = replace(sign(ledger, 1), state=state)
    error = refused(ledger, lambda tx: tx.put_reservation(back, payload(1)))
    assert error.reason == "LEDGER_INVARIANT"


def test_reservations_keep_all_their_fields(ledger: SqliteLedger) -> None:
    required = (
        KeySet("root:1", 2, {"k1": "a" * 64, "k2": "b" * 64}),
        KeySet("root:2", 1, {"k3": "c" * 64}),
    )
    wanted = replace(reservation(1, "root"), required=required)

    def work(tx: SqliteTransaction) -> int:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, named(wanted)))
        tx.put_reservation(replace(wanted, leaf=leaf), payload(1, "root"))
        return leaf

    leaf = ledger.transact(work)
    found = ledger.read(lambda view: view.reservation(REPOSITORY, "root", 0, 1))
    assert found == replace(wanted, leaf=leaf)


@pytest.mark.parametrize(
    "wrong",
    [{"version": 2}, {"role": "root"}, {"repository": "x"}, {"epoch": 1}, {"payload_sha256": "x"}],
)
def test_the_leaf_must_announce_the_reservation(
    ledger: SqliteLedger, wrong: dict[str, str | int]
) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, {**named(reservation(1)), **wrong}))
        tx.put_reservation(reservation(1, leaf=leaf), payload(1))

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"
    assert ledger.read(lambda view: view.role(REPOSITORY, "targets")) is None


def test_the_leaf_must_be_of_the_same_transaction(ledger: SqliteLedger) -> None:
    leaf = ledger.transact(
        lambda tx: tx.append(entry(Event.SIGNATURE_INTENDED, named(reservation(1))))
    )
    error = refused(ledger, lambda tx: tx.put_reservation(reservation(1, leaf=leaf), payload(1)))
    assert error.reason == "LEDGER_INVARIANT"


def test_a_payload_must_have_its_digest(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_INTENDED, named(reservation(1))))
        tx.put_reservation(reservation(1, leaf=leaf), payload(1) + b" ")

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"


def test_a_reservation_of_another_epoch_is_refused(ledger: SqliteLedger) -> None:
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", epoch=1)))
    for epoch in (0, 2):
        assert refused(ledger, reserve(1, epoch=epoch)).reason == "LEDGER_INVARIANT"
    ledger.transact(reserve(1, epoch=1))


def test_a_new_epoch_may_start_lower(ledger: SqliteLedger) -> None:
    sign(ledger, 9)
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets", epoch=1)))
    ledger.transact(reserve(2, epoch=1))
    assert ledger.read(
        lambda v: list(v.versions(REPOSITORY, [("targets", 9), ("targets", 2)]))
    ) == [("targets", 2)]


def test_signatures_are_recorded_once_per_key(ledger: SqliteLedger) -> None:
    made = ledger.transact(reserve(1))
    stored = ledger.transact(complete(made))
    assert ledger.read(lambda view: view.signatures(made)) == (stored,)

    def second(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(made)))
        tx.put_signature(made, replace(stored, leaf=leaf, signature=b"other"))

    error = refused(ledger, second)
    assert isinstance(error, AlreadyExists)
    assert error.reason == "SIGNATURE_RECORDED"
    other = replace(stored, fingerprint="e" * 64, key="")

    def third(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(made)))
        tx.put_signature(made, replace(other, leaf=leaf))

    ledger.transact(third)
    assert len(ledger.read(lambda view: view.signatures(made))) == 2


def test_no_signature_without_reservation(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        leaf = tx.append(entry(Event.SIGNATURE_COMPLETED, named(reservation(1))))
        tx.put_signature(reservation(1), StoredSignature("f" * 64, "k", b"s", leaf, NOW))

    assert refused(ledger, work).reason == "LEDGER_INVARIANT"


def test_versions_grow_and_never_change_their_payload(ledger: SqliteLedger) -> None:
    ledger.transact(lambda tx: tx.put_role(Role(REPOSITORY, "targets")))
    bare = VersionRecord(REPOSITORY, "targets", 0, 4, "", accepted=False, imported=True)
    file = FileFacts(10, {"sha256": "e" * 64})
    full = replace(bare, digest=digest(payload(4)), accepted=True, imported=False, file=file)
    ledger.transact(lambda tx: tx.put_version(bare))
    ledger.transact(lambda tx: tx.put_version(full))
    ledger.transact(lambda tx: tx.put_version(bare))
    known = ledger.read(lambda view: view.versions(REPOSITORY, [("targets", 4), ("targets", 5)]))
    assert known == {("targets", 4): replace(full, imported=True)}
    assert role_of(ledger).high_water == 4
    other = replace(full, digest="f" * 64)
    assert isinstance(refused(ledger, lambda tx: tx.put_version(other)), Equivocation)
    assert isinstance(refused(ledger, reserve(4, salt="x")), Equivocation)
    ledger.transact(reserve(4))


def test_thousands_of_versions_are_found_at_once(ledger: SqliteLedger) -> None:
    def work(tx: SqliteTransaction) -> None:
        for n in range(2000):
            tx.put_version(VersionRecord(REPOSITORY, f"bin-{n}", 0, n + 1, "a" * 64, True))

    ledger.transact(work)
    wanted = [(f"bin-{n}", n + 1) for n in range(2000)]
    found = ledger.read(lambda view: view.versions(REPOSITORY, [*wanted, ("bin-1", 1)]))
    assert set(found) == set(wanted)


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
