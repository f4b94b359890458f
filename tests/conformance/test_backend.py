"""What makes something a key backend: whoever passes this suite is one."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import Signature, SSlibKey

from keyd.backends.token import WorkerToken
from keyd.domain.keys import Key, KeySpec, Scheme
from keyd.domain.public_keys import verify
from keyd.domain.tokens import SignItem, TokenState
from keyd.errors import AlreadyExists, DeadlineExceeded, InvalidRequest, KeydError, NotFound
from tests.conformance.subject import NAME, Subject
from tests.fakes import MemoryTokenJournal
from tests.fleets import PATIENCE_S, item, make_key, running, sign_one

ALL = [KeySpec(scheme, 2048 if scheme.is_rsa else 0) for scheme in Scheme]
MESSAGES = (b"", b"a", b"{}" * 5_000, secrets.token_bytes(1_000_000))


def cheapest(subject: Subject) -> KeySpec:
    return subject.specs[0]


def verified_by_tuf(key: Key, data: bytes, signature: bytes) -> None:
    public = SSlibKey.from_crypto(load_der_public_key(key.public_der), scheme=key.scheme.value)
    public.verify_signature(Signature(public.keyid, signature.hex()), data)


def refuses(token: WorkerToken, spec: KeySpec) -> None:
    """A scheme that is not expected: not offered and not made, or else left untried."""
    if spec.scheme in token.status().schemes:
        pytest.skip(f"{spec.scheme.value} is offered by this token and was not to be tried")
    with pytest.raises(InvalidRequest) as refused:
        token.generate(spec, secrets.token_bytes(16), "unable", PATIENCE_S)
    assert refused.value.reason == "TOKEN_NOT_CAPABLE"


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.scheme.value)
def test_makes_keys_and_signatures_of_each_scheme(
    spec: KeySpec, subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    if spec.scheme not in {each.scheme for each in subject.specs}:
        refuses(token, spec)
        return
    assert spec.scheme in token.status().schemes
    key = make_key(token, journal, spec)
    for data in MESSAGES:
        verified_by_tuf(key, data, sign_one(token, key, data))


def test_made_keys_have_the_demanded_attributes(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    key = make_key(token, journal, cheapest(subject))
    found = token.find(key.cka_id, PATIENCE_S)
    # `healthy` is the table of docs/reference/token-attributes.md, judged from what was read back.
    waived = ("CKA_LOCAL",) if subject.config.waive_local else ()
    assert (found.healthy, found.problem, found.waived) == (True, "", waived)
    assert (found.public_der, found.scheme, found.label) == (key.public_der, key.scheme, "test")


def test_a_cka_id_is_used_once(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    key = make_key(token, journal, cheapest(subject))
    with pytest.raises(AlreadyExists) as refused:
        token.generate(cheapest(subject), key.cka_id, "again", PATIENCE_S)
    assert refused.value.reason == "CKA_ID_TAKEN"
    sign_one(token, key)


def test_a_key_is_found_by_cka_id_and_public_key_together(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    one, other = (make_key(token, journal, cheapest(subject)) for _ in range(2))
    swapped = SignItem(one.cka_id, other.public_der, one.scheme, b"message")
    unknown = SignItem(secrets.token_bytes(16), one.public_der, one.scheme, b"message")
    for wrong in (swapped, unknown):
        [outcome] = token.sign([wrong], PATIENCE_S)
        assert isinstance(outcome, NotFound)
        assert outcome.reason == "KEY_NOT_ON_TOKEN"
    assert token.status().state is TokenState.ONLINE


def test_a_destroyed_pair_leaves_nothing_and_its_neighbour_everything(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    doomed, other = (make_key(token, journal, cheapest(subject)) for _ in range(2))
    before = {found.cka_id for found in token.inventory(PATIENCE_S)}
    with pytest.raises(KeydError) as refused:
        token.destroy(replace(doomed, public_der=other.public_der), PATIENCE_S)
    assert refused.value.reason == "KEY_NOT_ON_TOKEN"
    assert before == {found.cka_id for found in token.inventory(PATIENCE_S)}
    sign_one(token, doomed)
    journal.registered.remove(doomed)
    assert token.destroy(doomed, PATIENCE_S) == 2
    assert {found.cka_id for found in token.inventory(PATIENCE_S)} == before - {doomed.cka_id}
    assert token.destroy(doomed, PATIENCE_S) == 0
    [outcome] = token.sign([item(doomed)], PATIENCE_S)
    assert isinstance(outcome, NotFound)
    sign_one(token, other)


def test_a_missing_key_is_not_found(token: WorkerToken) -> None:
    with pytest.raises(NotFound):
        token.find(secrets.token_bytes(16), PATIENCE_S)


def test_a_scheme_that_does_not_fit_the_key_is_refused(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    key = make_key(token, journal, cheapest(subject))
    other = next(scheme for scheme in Scheme if scheme is not key.scheme)
    [outcome] = token.sign([replace(item(key), scheme=other)], PATIENCE_S)
    assert isinstance(outcome, InvalidRequest)
    sign_one(token, key)


def test_answers_come_one_per_item_in_order(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    keys = [make_key(token, journal, cheapest(subject)) for _ in range(2)]
    asked = [item(keys[i % 2], f"message {i}".encode()) for i in range(100)]
    asked[50] = replace(asked[50], cka_id=secrets.token_bytes(16))
    outcomes = token.sign(asked, PATIENCE_S)
    assert isinstance(outcomes.pop(50), NotFound)
    del asked[50]
    for each, outcome in zip(asked, outcomes, strict=True):
        assert isinstance(outcome, bytes)
        verify(each.public_der, each.scheme, each.data, outcome)


def test_many_requests_share_few_frames(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    key = make_key(token, journal, cheapest(subject))
    sign_one(token, key)
    before = token.statistics()
    assert all(isinstance(each, bytes) for each in token.sign([item(key)] * 128, PATIENCE_S))
    after = token.statistics()
    assert after.requests - before.requests == 128
    assert after.frames - before.frames < 64


def test_eight_threads_sign_at_once(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    keys = [make_key(token, journal, cheapest(subject)) for _ in range(3)]
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(25):
                sign_one(token, keys[(number + i) % 3], f"{number} {i}".encode())
        except (KeydError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_strays_are_counted_shown_and_left_alone(
    subject: Subject, journal: MemoryTokenJournal
) -> None:
    with running(subject.config, journal=journal) as fleet:
        token = fleet.get(NAME)
        registered = make_key(token, journal, cheapest(subject))
        stray = token.generate(cheapest(subject), secrets.token_bytes(16), "stray", PATIENCE_S)
    with running(subject.config, journal=journal) as fleet:
        token = fleet.get(NAME)
        assert token.status().strays >= 1
        assert token.status().missing_keys == ()
        inventory = {found.cka_id: found for found in token.inventory(PATIENCE_S)}
        assert inventory[stray.cka_id] == stray
        assert inventory[registered.cka_id].healthy


def test_a_key_made_elsewhere_can_be_found_and_proved(subject: Subject) -> None:
    """What adoption needs: found by its CKA_ID, and a signature over a fresh challenge."""
    with running(subject.config) as fleet:
        made = fleet.get(NAME).generate(cheapest(subject), secrets.token_bytes(16), "x", PATIENCE_S)
    journal = MemoryTokenJournal()
    with running(subject.config, journal=journal) as fleet:
        found = fleet.get(NAME).find(made.cka_id, PATIENCE_S)
        assert found == made
        sign_one(fleet.get(NAME), journal.register(NAME, "adopted", found), b"challenge")


def test_keys_survive_a_restart(subject: Subject, journal: MemoryTokenJournal) -> None:
    with running(subject.config, journal=journal) as fleet:
        key = make_key(fleet.get(NAME), journal, cheapest(subject))
    with running(subject.config, journal=journal) as fleet:
        sign_one(fleet.get(NAME), key)
    # Each start presented the PIN once, and each time the record was cleared after it.
    assert [attempt is None for attempt in journal.attempts] == [False, True] * 2


def test_what_cannot_be_done_in_time_is_not_begun(
    subject: Subject, token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    key = make_key(token, journal, cheapest(subject))
    [outcome] = token.sign([item(key)], 0.0)
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.details["outcome"] == "NOT_STARTED"
    sign_one(token, key)


def test_the_status_names_the_token(token: WorkerToken, journal: MemoryTokenJournal) -> None:
    status = token.status()
    assert status.state is TokenState.ONLINE
    identity = journal.identities[NAME]
    assert (identity.serial, identity.label) == (status.serial, status.label)
    assert status.serial or status.label
    assert status.schemes


def test_unlocking_an_open_token_presents_nothing(
    token: WorkerToken, journal: MemoryTokenJournal
) -> None:
    """C_Login while logged in does not even look at the PIN, so it is no proof of anything."""
    recorded = len(journal.attempts)
    typed = bytearray(b"certainly wrong")
    assert token.unlock(typed, PATIENCE_S).state is TokenState.ONLINE
    assert len(journal.attempts) == recorded
    assert typed == bytes(len(typed))
