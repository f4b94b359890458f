"""What a root changes, for people and for the digest they confirm."""

from __future__ import annotations

import copy
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain.difference import change
from tests.unit.rules.world import (
    Signed,
    fingerprint,
    in_days,
    key,
    keyid,
    listing,
    payload,
    put,
    root,
)


def lines(before: Signed, after: Signed) -> tuple[str, ...]:
    return change(payload(before), payload(after)).lines


def test_a_plain_renewal() -> None:
    assert lines(root(1), root(2, days=400)) == (
        f'expires: "{in_days(365)}" -> "{in_days(400)}"',
        "version: 1 -> 2",
    )


def test_a_key_is_replaced_and_a_threshold_raised() -> None:
    new = root(1)
    del new["keys"][keyid("r1")]
    new["keys"][keyid("r4")] = {**key("r4"), "x-owner": "@new"}
    new["roles"]["root"] = listing(3, "r2", "r3", "r4")
    came, went = fingerprint("r4"), fingerprint("r1")
    told = lines(root(1), new)
    assert "role root: threshold: 2 -> 3" in told
    assert f"role root: key added: {came} as {keyid('r4')}" in told
    assert f"role root: key removed: {went} as {keyid('r1')}" in told
    assert f'key {keyid("r4")}: x-owner: (absent) -> "@new"' in told
    assert f'key {keyid("r1")}: fingerprint: "{went}" -> (absent)' in told


def test_a_key_that_stays_under_another_id_is_called_the_same() -> None:
    new = root(1)
    new["keys"]["ab" * 32] = {**new["keys"].pop(keyid("t1")), "x-owner": "@me"}
    new["roles"]["targets"]["keyids"] = ["ab" * 32]
    told = lines(root(1), new)
    assert (
        f"role targets: key stays under another id: {fingerprint('t1')} as {keyid('t1')} -> "
        f"{'ab' * 32}"
    ) in told
    assert not any("role targets: key added" in line for line in told)


def test_another_key_under_the_same_id_shows_its_fingerprint() -> None:
    new = root(1)
    new["keys"][keyid("t1")] = key("x")
    told = lines(root(1), new)
    before, after = fingerprint("t1"), fingerprint("x")
    assert f'key {keyid("t1")}: fingerprint: "{before}" -> "{after}"' in told


def test_unusable_keys_are_named_by_their_id() -> None:
    new = root(1)
    new["keys"]["odd id"] = {**key("t1"), "scheme": "rot13"}
    new["roles"]["targets"]["keyids"].append("odd id")
    told = lines(root(1), new)
    assert 'role targets: key added: (no usable key, "odd id") as "odd id"' in told
    assert 'key "odd id": fingerprint: (absent) -> "none"' in told


def test_elliptic_points_in_hex_are_recognised_in_pem() -> None:
    point = (
        "04cbc5cab2684160323c25cd06c3307178a6b1d1c9b949328453ae473c5ba7527e35b13f298b41633382241f3f"
        "d8526c262d43b45adee5c618fa0642c82b8a9803"
    )
    pem = (
        "-----BEGIN PUBLIC KEY-----\n"
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy8XKsmhBYDI8Jc0GwzBxeKax0cm5\n"
        "STKEU65HPFunUn41sT8pi0FjM4IkHz/YUmwmLUO0Wt7lxhj6BkLIK4qYAw==\n"
        "-----END PUBLIC KEY-----\n"
    )
    old, new = root(1), root(2)
    ecdsa = {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256"}
    for signed, name, public in ((old, "hex", point), (new, "pem", pem)):
        signed["keys"][name] = {**ecdsa, "keyval": {"public": public}}
        signed["roles"]["root"]["keyids"].append(name)
    assert any(
        line.startswith("role root: key stays under another id: ") for line in lines(old, new)
    )


def test_the_first_root_is_told_in_full() -> None:
    told = change(None, payload(root(1))).lines
    assert "version: (absent) -> 1" in told
    assert "role root: threshold: (absent) -> 2" in told
    assert f"role root: key added: {fingerprint('r1')} as {keyid('r1')}" in told


def test_lines_are_printable_ascii_whatever_the_names() -> None:
    new = root(1)
    new["x-ﬁshy: 1"] = "right\u202eto left"
    for line in lines(root(1), new):
        assert line.isascii()
        assert line.isprintable()
    assert '"x-\\ufb01shy: 1": (absent) -> "right\\u202eto left"' in lines(root(1), new)


def test_the_digest_is_computable_by_anyone() -> None:
    old, new = payload(root(1)), payload(root(2))
    found = change(old, new)
    text = "\n".join(["keyd-root-change-v1", old.digest, new.digest, *found.lines, ""])
    assert found.digest == hashlib.sha256(text.encode("ascii")).hexdigest()
    first = change(None, new)
    text = "\n".join(["keyd-root-change-v1", "-", new.digest, *first.lines, ""])
    assert first.digest == hashlib.sha256(text.encode("ascii")).hexdigest()


MEMBERS = [
    "/version",
    "/expires",
    "/spec_version",
    "/consistent_snapshot",
    "/x-any",
    "/roles/root/threshold",
    "/roles/root/x-any",
    "/roles/targets/threshold",
    "/roles/mirrors",
    f"/keys/{keyid('r1')}/scheme",
    f"/keys/{keyid('r1')}/keyval",
    f"/keys/{keyid('r1')}/x-any",
    "/roles/root/keyids/0",
]


@pytest.mark.parametrize("pointer", MEMBERS)
def test_every_member_that_changes_is_told(pointer: str) -> None:
    new = copy.deepcopy(root(1))
    values = {
        "/expires": in_days(1),
        "/spec_version": "1.0.2",
        "/consistent_snapshot": False,
        "/roles/mirrors": listing(1, "t1"),
        f"/keys/{keyid('r1')}/keyval": {"public": "00" * 32},
        f"/keys/{keyid('r1')}/scheme": "other",
        "/roles/root/keyids/0": "some id",
    }
    put(pointer, values.get(pointer, 7))(new)
    assert lines(root(1), new)


@given(st.permutations(["r1", "r2", "r3"]))
def test_order_of_key_ids_is_no_news_but_another_digest(names: list[str]) -> None:
    new = root(1)
    new["roles"]["root"] = listing(2, *names)
    found = change(payload(root(1)), payload(new))
    same = change(payload(root(1)), payload(root(1)))
    assert found.lines == same.lines == ()
    assert (found.digest == same.digest) == (names == ["r1", "r2", "r3"])
