"""Keys that do not sign: kept apart, tested again in turn, told from a token that fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from keyd.backends.reconcile import Reconciled, identity_of
from keyd.backends.set_aside import TESTED_AGAIN, SetAside
from keyd.domain.keys import Content, Key, KeyState, Origin, Scheme
from keyd.wire.worker_pb2 import Failure

FIRST = Key(
    name="key-0",
    token="hsm",
    cka_id=b"0",
    scheme=Scheme.ECDSA_P256,
    public_der=b"public 0",
    content=Content.TUF,
    state=KeyState.ACTIVE,
    origin=Origin.GENERATED,
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
)
KEYS = tuple(
    replace(FIRST, name=f"key-{i}", cka_id=b"%d" % i, public_der=b"public %d" % i)
    for i in range(TESTED_AGAIN + 2)
)
BROKEN = Failure(kind=Failure.KIND_PAIR_BROKEN, code="PAIR_TEST")
FAILED = Failure(kind=Failure.KIND_TOKEN_FAILED, code="GeneralError")


def refused(*keys: Key, why: Failure = BROKEN) -> dict[str, Failure]:
    return {key.name: why for key in keys}


def test_a_key_that_does_not_sign_is_unusable_and_missing_until_it_signs() -> None:
    one, other, gone = KEYS[:3]
    reasons = {identity_of(gone): "gone"}
    stock = Reconciled(present=(one, other), unusable=reasons, missing_keys=(gone.name,))
    aside = SetAside().tested(stock.present, refused(other))
    left = aside.without(stock)
    assert left.present == (one,)
    assert left.unusable == reasons | {identity_of(other): "it does not sign (PAIR_TEST)"}
    assert left.missing_keys == (other.name, gone.name)
    assert aside.tested([other], {}).without(stock) == stock


def test_a_few_are_tested_again_at_a_time_and_each_in_its_turn() -> None:
    aside = SetAside().tested(KEYS, refused(*KEYS))
    first = aside.to_test(KEYS)
    assert first == list(KEYS[:TESTED_AGAIN])
    aside = aside.tested(first, refused(*first))
    assert aside.to_test(KEYS)[:2] == list(KEYS[TESTED_AGAIN:])
    # Whatever is not there cannot be tested; whatever is not registered is forgotten.
    assert aside.to_test(KEYS[:1]) == [KEYS[0]]
    assert aside.only(KEYS[:1]).to_test(KEYS) == [KEYS[0]]


def test_only_if_no_key_signs_is_the_token_at_fault() -> None:
    one, other = KEYS[:2]
    stock = Reconciled(present=(one, other))
    one_failed = SetAside().tested([one], refused(one, why=FAILED))
    assert one_failed.failure_of_the_token(stock) is None
    assert one_failed.tested([other], refused(other)).failure_of_the_token(stock) == FAILED
    broken = SetAside().tested(KEYS, refused(*KEYS))
    assert broken.failure_of_the_token(stock) is None
    assert one_failed.failure_of_the_token(Reconciled()) is None
