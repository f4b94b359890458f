"""The payloads that are signed are what a package index would have signed."""

from __future__ import annotations

from bench.payloads import BIT_LENGTH, Bins, bodies, role_name
from keyd.domain.delegations import Succinct
from keyd.domain.payload import parse


def test_payloads_are_canonical_and_their_files_hash_into_their_bin() -> None:
    bins = Bins("p256", 16, bodies(16))
    delegation = Succinct("p256", BIT_LENGTH)
    for number in range(16):
        role, raw = bins.next(number)
        payload = parse(raw, max_bytes=4096)
        covers = delegation.scope_of(role)
        assert delegation.covers(role)
        assert 1800 < len(raw) < 2300
        assert payload.signed["targets"]
        assert all(map(covers, payload.signed["targets"]))


def test_every_payload_of_a_bin_has_the_next_version() -> None:
    bins = Bins("p256", 2, bodies(2))
    versions = [parse(bins.next(3)[1], max_bytes=4096).signed["version"] for _ in range(3)]
    assert versions == [1, 2, 3]
    assert bins.next(1)[0] == role_name("p256", 1)
