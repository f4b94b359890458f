"""Token and catalogue compared: what is ours, what is missing, what is a stray."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keyd.backends.reconcile import canary, reconcile, to_found
from keyd.domain.keys import Content, Key, KeyState, Origin, Scheme
from keyd.domain.tokens import FoundKey
from keyd.wire.worker_pb2 import KeyPair

KEY = Key(
    name="root-1",
    token="hsm",
    cka_id=b"1",
    scheme=Scheme.ECDSA_P256,
    public_der=b"public 1",
    content=Content.TUF,
    state=KeyState.ACTIVE,
    origin=Origin.GENERATED,
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
)
OTHER = replace(KEY, name="root-2", cka_id=b"2", public_der=b"public 2")
PAIR = {
    "cka_id": b"1",
    "label": "root-1",
    "public_der": b"public 1",
    "scheme": "ecdsa-sha2-nistp256",
    "private_found": True,
    "public_found": True,
    "sensitive": True,
    "extractable": False,
    "local": True,
    "never_extractable": True,
    "always_sensitive": True,
    "may_sign": True,
}


def found(**changes: object) -> FoundKey:
    return to_found(KeyPair(**{**PAIR, **changes}))  # type: ignore[arg-type]


HERE = found()
OTHER_HERE = found(cka_id=b"2", public_der=b"public 2")


def test_a_pair_with_every_demanded_attribute_is_healthy() -> None:
    assert HERE.healthy
    assert HERE.waived == ()
    assert HERE.scheme is Scheme.ECDSA_P256


@pytest.mark.parametrize(
    ("attribute", "value", "word"),
    [
        ("private_found", False, "private"),
        ("duplicates", 1, "several"),
        ("public_der", b"", "public key"),
        ("scheme", "", "scheme"),
        ("scheme", "rsa-of-tomorrow", "scheme"),
        ("extractable", True, "CKA_EXTRACTABLE"),
        ("sensitive", False, "CKA_SENSITIVE"),
        ("always_sensitive", False, "CKA_ALWAYS_SENSITIVE"),
        ("never_extractable", False, "CKA_NEVER_EXTRACTABLE"),
        ("local", False, "CKA_LOCAL"),
        ("may_sign", False, "CKA_SIGN"),
    ],
)
def test_each_missing_attribute_is_named(attribute: str, value: object, word: str) -> None:
    pair = found(**{attribute: value})
    assert not pair.healthy
    assert word in pair.problem
    stock = reconcile([KEY, OTHER], [pair, OTHER_HERE])
    assert stock.missing_keys == ("root-1",)
    assert stock.unusable == {(b"1", b"public 1"): pair.problem}
    assert not stock.foreign


def test_a_waiver_counts_where_it_is_needed_and_for_nothing_else() -> None:
    silent = KeyPair(**{**PAIR, "local": False})  # type: ignore[arg-type]
    waived = to_found(silent, waive_local=True)
    assert (waived.healthy, waived.waived) == (True, ("CKA_LOCAL",))
    silent.never_extractable = False
    assert not to_found(silent, waive_local=True).healthy
    told = to_found(KeyPair(**PAIR), waive_local=True)  # type: ignore[arg-type]
    assert (told.healthy, told.waived) == (True, ())


def test_registered_keys_are_matched_and_the_rest_are_strays() -> None:
    stock = reconcile([KEY], [HERE, OTHER_HERE])
    assert (stock.present, stock.missing_keys, stock.strays) == ((KEY,), (), 1)
    assert not stock.foreign


def test_a_key_that_is_not_there_is_missing() -> None:
    stock = reconcile([KEY, OTHER], [HERE])
    assert (stock.present, stock.missing_keys, stock.strays) == ((KEY,), ("root-2",), 0)
    assert not stock.foreign


def test_another_public_key_under_the_same_id_is_not_ours() -> None:
    stock = reconcile([KEY, OTHER], [found(public_der=b"public x"), OTHER_HERE])
    assert stock.missing_keys == ("root-1",)
    assert stock.strays == 1


def test_a_token_without_any_of_ours_is_foreign() -> None:
    assert reconcile([KEY, OTHER], []).foreign
    assert reconcile([KEY], [found(public_der=b"public x"), OTHER_HERE]).foreign


def test_a_token_of_nobodys_keys_and_a_damaged_one_are_not_foreign() -> None:
    assert not reconcile([], [HERE]).foreign
    assert not reconcile([KEY], [found(duplicates=1, public_der=b"")]).foreign
    assert not reconcile([KEY], [found(local=False)]).foreign


def test_destroyed_keys_are_not_missed() -> None:
    destroyed = replace(KEY, state=KeyState.DESTROYED)
    stock = reconcile([destroyed, OTHER], [OTHER_HERE])
    assert stock.missing_keys == ()
    assert reconcile([destroyed], []) == reconcile([], [])


def test_the_canary_is_the_logs_key_else_a_cheap_one_that_may_sign() -> None:
    rsa = replace(KEY, name="rsa", scheme=Scheme.RSA_PSS_SHA256, rsa_bits=4096)
    log = replace(rsa, name="log", content=Content.LOG)
    idle = replace(KEY, name="idle", state=KeyState.SUSPENDED)
    assert canary([rsa, KEY, log]) == log
    assert canary([rsa, OTHER, KEY]) == KEY
    assert canary([idle, rsa]) == rsa
    assert canary([idle]) is None
