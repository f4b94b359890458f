"""Reading request fields: all objections at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyd.domain.trust import RoleRules
from keyd.errors import InvalidRequest
from keyd.rpc.convert import content_in, scheme_in
from keyd.rpc.convert_repositories import foreign_key_in, rules_in, rules_out
from keyd.rpc.convert_signing import signing_request
from keyd.rpc.fields import Fields
from keyd_protos.v1 import repositories_pb2, signing_pb2

DIGEST = bytes(range(32))


def refusal(read: Callable[[Fields], object]) -> InvalidRequest:
    fields = Fields()
    read(fields)
    with pytest.raises(InvalidRequest) as refused:
        fields.check()
    return refused.value


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda f: f.name("/x", ""), "FIELD_REQUIRED"),
        (lambda f: f.name("/x", "a" * 65), "FIELD_INVALID"),
        (lambda f: f.name("/x", "a\0b"), "FIELD_INVALID"),
        (lambda f: f.name("/x", "a\nb", required=False), "FIELD_INVALID"),
        (lambda f: f.role("/x", "a" * 256), "FIELD_INVALID"),
        (lambda f: f.role("/x", "a\u202eb"), "FIELD_INVALID"),
        (lambda f: f.request_id("/x", "a" * 65), "FIELD_INVALID"),
        (lambda f: f.request_id("/x", "\u00e4"), "FIELD_INVALID"),
        (lambda f: f.request_id("/x", "a\tb"), "FIELD_INVALID"),
        (lambda f: f.digest("/x", b"a" * 31), "FIELD_INVALID"),
        (lambda f: f.digest("/x", b"a" * 64), "FIELD_INVALID"),
        (lambda f: f.octets("/x", b"", 4), "FIELD_REQUIRED"),
        (lambda f: f.octets("/x", b"12345", 4), "FIELD_INVALID"),
        (lambda f: f.number("/x", 0, least=1), "FIELD_INVALID"),
        (lambda f: f.number("/x", 2**63), "FIELD_INVALID"),
        (lambda f: content_in(f, "/x", 77), "FIELD_INVALID"),
        (lambda f: scheme_in(f, "/x", "rsa-pkcs1v15-sha256"), "FIELD_INVALID"),
        (lambda f: foreign_key_in(f, "/x", "{"), "FIELD_INVALID"),
        (lambda f: foreign_key_in(f, "/x", "[" * 100_000), "FIELD_INVALID"),
        (lambda f: foreign_key_in(f, "/x", '{"keytype":"x","scheme":"x"}'), "FIELD_INVALID"),
        (
            lambda f: foreign_key_in(
                f, "/x", '{"keytype":"x","scheme":"x","keyval":{"public":"x","private":"y"}}'
            ),
            "FIELD_INVALID",
        ),
        (
            lambda f: foreign_key_in(
                f, "/x", '{"keytype":"x","keytype":"y","scheme":"x","keyval":{"public":"x"}}'
            ),
            "FIELD_INVALID",
        ),
    ],
)
def test_each_objection(read: Callable[[Fields], object], reason: str) -> None:
    error = refusal(read)
    assert error.reason == reason
    assert [(f.pointer, f.reason, f.malformed) for f in error.findings] == [("/x", reason, True)]


def test_what_passes() -> None:
    fields = Fields()
    assert fields.name("/x", "", required=False) == ""
    assert fields.role("/x", "a b/\u00e4-" + "c" * 200) == "a b/\u00e4-" + "c" * 200
    assert fields.digest("/x", b"") == ""
    assert fields.digest("/x", DIGEST) == DIGEST.hex()
    assert fields.number("/x", 2**63 - 1) == 2**63 - 1
    assert foreign_key_in(fields, "/x", '{"keyval":{"public":"x"},"scheme":"s","keytype":"t"}') == {
        "keytype": "t",
        "scheme": "s",
        "keyval": {"public": "x"},
    }
    fields.check()


def test_a_signing_request_names_all_that_is_wrong() -> None:
    message = signing_pb2.MetadataToSign(key_sha256=b"short", payload_sha256=b"too short")
    with pytest.raises(InvalidRequest) as refused:
        signing_request(message, request_id="\u00e4")
    assert [finding.pointer for finding in refused.value.findings] == [
        "/metadata/key",
        "/metadata/payload",
        "/metadata/key_sha256",
        "/metadata/payload_sha256",
        "/request_id",
    ]
    assert refused.value.message == "/metadata/key must not be empty (and 4 more)"


def test_rules_survive_the_way_there_and_back() -> None:
    rules = RoleRules(expiry_min_s=5, threshold_floor=3, extra_members=("x-a", "y"))
    fields = Fields()
    assert rules_in(fields, rules_out(rules)) == rules
    fields.check()


def test_rules_with_an_unknown_formula() -> None:
    message = repositories_pb2.RoleRules(keyid_formula="none", expiry_max_s=2**64 - 1)
    error = refusal(lambda fields: rules_in(fields, message))
    assert {f.pointer for f in error.findings} == {"/rules/keyid_formula", "/rules/expiry_max_s"}
