"""Payloads that somebody will try: each is refused with exactly its reason, at its place."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

import pytest

from keyd.domain import canonical
from keyd.domain.payload import parse
from keyd.errors import InvalidRequest
from tests.unit.domain.payloads import GOOD, document, drop, put

ROOT, TARGETS, TIMESTAMP = GOOD["root"], GOOD["targets"], GOOD["timestamp"]
KEYID = next(iter(document("root")["keys"]))
KEYVAL = f"/keys/{KEYID}/keyval"
NFD = unicodedata.normalize("NFD", "Überblick")
PRIVATE_PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n"


def textual(name: str, old: str, new: str) -> bytes:
    """A good payload with one piece of its text replaced: for what no object can express."""
    raw = GOOD[name]
    assert old.encode() in raw
    return raw.replace(old.encode(), new.encode(), 1)


def with_member(text: str, name: str = "timestamp") -> bytes:
    """A payload whose last member is `"x-z":` followed by `text`; canonical if `text` is."""
    return GOOD[name][:-1] + b',"x-z":' + text.encode() + b"}"


def nested(depth: int) -> bytes:
    """A payload whose brackets are open `depth` deep."""
    return with_member("[" * (depth - 1) + "]" * (depth - 1))


def version(text: str) -> bytes:
    return textual("timestamp", '"version":40', f'"version":{text}')


ENVELOPE = b'{"signatures":[],"signed":' + ROOT + b"}"
INDENTED = json.dumps({"signatures": [], "signed": document("root")}, indent=1).encode() + b"\n"
DSSE_TEXT = b"DSSEv1 24 application/vnd.tuf+json %d %s" % (len(ROOT), ROOT)
DSSE_ENVELOPE = canonical.encode({"payload": "e30=", "payloadType": "x", "signatures": []})
TARGET = {"hashes": {}, "length": 1}
DIGEST = hashlib.sha256(ROOT)

# (what it is, payload, reason, JSON pointer)
TEXTS: list[tuple[str, bytes, str, str]] = [
    ("twice at the top", textual("timestamp", '"version":40', '"version":40,"version":41'),
     "DUPLICATE_MEMBER", "/version"),
    ("twice, nested", textual("snapshot", '{"version":12}', '{"version":12,"version":12}'),
     "DUPLICATE_MEMBER", "/meta/nightly.json/version"),
    ("a target path twice",
     b'{"targets":{"a/~b":{"hashes":{},"length":1},"a/~b":{"hashes":{},"length":2}}}',
     "DUPLICATE_MEMBER", "/targets/a~1~0b"),
    ("twice by another spelling", version('40,"v\\u0065rsion":41'),
     "DUPLICATE_MEMBER", "/version"),
    ("1.0", version("1.0"), "NUMBER_NOT_INTEGER", "/version"),
    ("1e3", version("1e3"), "NUMBER_NOT_INTEGER", "/version"),
    ("NaN", version("NaN"), "NUMBER_NOT_INTEGER", "/version"),
    ("Infinity", version("Infinity"), "NUMBER_NOT_INTEGER", "/version"),
    ("-Infinity in an unknown member", with_member('[0,{"y":-Infinity}]'),
     "NUMBER_NOT_INTEGER", "/x-z/1/y"),
    ("true as version", version("true"), "MEMBER_TYPE_WRONG", "/version"),
    ("null as version", version("null"), "MEMBER_TYPE_WRONG", "/version"),
    ("a string as version", version('"40"'), "MEMBER_TYPE_WRONG", "/version"),
    ("-0", version("-0"), "NOT_CANONICAL", ""),
    ("white space inside", version(" 40"), "NOT_CANONICAL", ""),
    ("white space before", b" " + ROOT, "NOT_CANONICAL", ""),
    ("white space after", ROOT + b"\n", "NOT_CANONICAL", ""),
    ("unsorted members", b'{"version":40,' + version("40").replace(b',"version":40', b"")[1:],
     "NOT_CANONICAL", ""),
    ("an escaped letter", textual("root", '"_type"', '"\\u005ftype"'), "NOT_CANONICAL", ""),
    ("an escaped line feed in PEM", textual("root", "KEY-----\n", "KEY-----\\n"),
     "NOT_CANONICAL", ""),
    ("an escaped line feed elsewhere", with_member('"a\\nb"'), "NOT_CANONICAL", ""),
    ("an escaped slash", textual("targets", "releases/", "releases\\/"), "NOT_CANONICAL", ""),
    ("an indented payload", json.dumps(document("root"), indent=2).encode(), "NOT_CANONICAL", ""),
    ("2^53", version(str(2**53)), "INTEGER_OUT_OF_RANGE", "/version"),
    ("-2^53", version(str(-(2**53))), "INTEGER_OUT_OF_RANGE", "/version"),
    ("2^64", version(str(2**64)), "INTEGER_OUT_OF_RANGE", "/version"),
    ("4,000 digits", version("9" * 4000), "INTEGER_OUT_OF_RANGE", "/version"),
    ("5,000 digits", version("9" * 5000), "INTEGER_OUT_OF_RANGE", "/version"),
    ("depth 33", nested(33), "NESTING_TOO_DEEP", ""),
    ("depth 33 behind a deceptive string", with_member('["\\\\",["\\"]]",' + "[" * 30 + "]" * 32),
     "NESTING_TOO_DEEP", ""),
    ("depth 900", nested(900), "NESTING_TOO_DEEP", ""),
    ("depth 1,100", nested(1100), "NESTING_TOO_DEEP", ""),
    ("depth 100,000", nested(100_000), "NESTING_TOO_DEEP", ""),
    ("100,000 brackets never closed", b"[" * 100_000, "NESTING_TOO_DEEP", ""),
    ("byte order mark", b"\xef\xbb\xbf" + ROOT, "PAYLOAD_NOT_UTF8", ""),
    ("UTF-16 with mark", ROOT.decode().encode("utf-16"), "PAYLOAD_NOT_UTF8", ""),
    ("UTF-16, little end first", TARGETS.decode().encode("utf-16-le"), "PAYLOAD_NOT_UTF8", ""),
    ("UTF-16, big end first", TARGETS.decode().encode("utf-16-be"), "PAYLOAD_NOT_UTF8", ""),
    ("UTF-32, big end first", TARGETS.decode().encode("utf-32-be"), "PAYLOAD_NOT_UTF8", ""),
    ("invalid UTF-8", with_member('"?"').replace(b"?", b"\xff"), "PAYLOAD_NOT_UTF8", ""),
    ("overlong UTF-8", with_member('"?"').replace(b"?", b"\xc0\xaf"), "PAYLOAD_NOT_UTF8", ""),
    ("a surrogate in UTF-8", with_member('"?"').replace(b"?", b"\xed\xa0\x80"),
     "PAYLOAD_NOT_UTF8", ""),
    ("lone surrogate", with_member('"\\ud800"'), "LONE_SURROGATE", "/x-z"),
    ("lone surrogate as a member's name", with_member('{"\\udc00":1}'), "LONE_SURROGATE", "/x-z"),
    ("lone surrogate in an unknown member", TIMESTAMP[:-1] + b',"zz":["\\udfff"]}',
     "LONE_SURROGATE", "/zz/0"),
    ("raw NUL", with_member('"\0"'), "CONTROL_CHARACTER", "/x-z"),
    ("escaped NUL", with_member('"\\u0000"'), "CONTROL_CHARACTER", "/x-z"),
    ("delete", with_member('"a\x7f"'), "CONTROL_CHARACTER", "/x-z"),
    ("C1 control", with_member('"a\x9b31m"'), "CONTROL_CHARACTER", "/x-z"),
    ("terminal escape in a target path", put("targets", "/targets/\x1b[2J", TARGET),
     "CONTROL_CHARACTER", "/targets"),
    ("line feed outside keys", with_member('"a\nb"'), "CONTROL_CHARACTER", "/x-z"),
    ("line feed in another member of a key", put("root", f"/keys/{KEYID}/x-owner", "a\n"),
     "CONTROL_CHARACTER", f"/keys/{KEYID}/x-owner"),
    ("line feed in a key id", put("root", "/keys/a\nb", document("root")["keys"][KEYID]),
     "CONTROL_CHARACTER", "/keys"),
    ("carriage return in PEM", put("root", KEYVAL + "/public", "-----BEGIN PUBLIC KEY-----\r\n"),
     "CONTROL_CHARACTER", KEYVAL + "/public"),
    ("NFD", put("targets", f"/targets/docs~1{NFD}.txt", TARGET),
     "STRING_NOT_NFC", f"/targets/docs~1{NFD}.txt"),
    ("NFC and NFD twins", canonical.encode({**document("timestamp"), "x-ä": 1, "x-a\u0308": 1}),
     "STRING_NOT_NFC", "/x-a\u0308"),
    ("a second value", ROOT + b"{}", "TRAILING_BYTES", ""),
    ("a number after the object", ROOT + b"5", "TRAILING_BYTES", ""),
    ("a second value on a new line", ROOT + b"\n" + ROOT, "TRAILING_BYTES", ""),
    ("empty", b"", "JSON_MALFORMED", ""),
    ("white space alone", b"  ", "JSON_MALFORMED", ""),
    ("truncated", ROOT[:-1], "JSON_MALFORMED", ""),
    ("truncated to the size of a digest", ROOT[:64], "JSON_MALFORMED", ""),
    ("truncated in a string", ROOT[:200], "JSON_MALFORMED", ""),
    ("01", b"01", "JSON_MALFORMED", ""),
    ("01 as version", version("01"), "JSON_MALFORMED", ""),
    ("a comment", ROOT[:-1] + b"/**/}", "JSON_MALFORMED", ""),
    ("array", b"[" + ROOT + b"]", "PAYLOAD_NOT_OBJECT", ""),
    ("string", b'"root"', "PAYLOAD_NOT_OBJECT", ""),
    ("string of a digest's size", b'"' + b"?" * 30 + b'"', "PAYLOAD_NOT_OBJECT", ""),
    ("number", b"7", "PAYLOAD_NOT_OBJECT", ""),
    ("null", b"null", "PAYLOAD_NOT_OBJECT", ""),
    ("SHA-256", DIGEST.digest(), "DIGEST_REFUSED", ""),
    ("SHA-256 in ASCII", b"a" * 32, "DIGEST_REFUSED", ""),
    ("a digest that starts as JSON does", b"[" + b"\x81" * 31, "DIGEST_REFUSED", ""),
    ("SHA-384", hashlib.sha384(ROOT).digest(), "DIGEST_REFUSED", ""),
    ("SHA-512", hashlib.sha512(ROOT).digest(), "DIGEST_REFUSED", ""),
    ("SHA-256 in hex", DIGEST.hexdigest().encode(), "DIGEST_REFUSED", ""),
    ("SHA-256 in decimal-looking hex", b"1" * 64, "DIGEST_REFUSED", ""),
    ("SHA-512 in hex as a string", b'"%s"' % hashlib.sha512(ROOT).hexdigest().upper().encode(),
     "DIGEST_REFUSED", ""),
    ("envelope", ENVELOPE, "PAYLOAD_IS_ENVELOPE", ""),
    ("envelope as tools write it", INDENTED, "PAYLOAD_IS_ENVELOPE", ""),
    ("DSSE string", DSSE_TEXT, "DSSE_UNSUPPORTED", ""),
    ("DSSE envelope", DSSE_ENVELOPE, "DSSE_UNSUPPORTED", ""),
]  # fmt: skip

MEMBERS: list[tuple[str, bytes, str, str]] = [
    ("empty object", b"{}", "MEMBER_MISSING", "/_type"),
    ("_type not a string", put("root", "/_type", 1), "MEMBER_TYPE_WRONG", "/_type"),
    ("_type null", put("root", "/_type", None), "MEMBER_TYPE_WRONG", "/_type"),
    ("_type before TUF 1.0", put("root", "/_type", "Root"), "ROLE_TYPE_UNKNOWN", "/_type"),
    ("_type of a retired role", put("root", "/_type", "mirrors"), "ROLE_TYPE_UNKNOWN", "/_type"),
    ("unknown at the top", put("timestamp", "/expiry", 1), "MEMBER_UNKNOWN", "/expiry"),
    ("unknown in a key", put("root", f"/keys/{KEYID}/owner", ""), "MEMBER_UNKNOWN",
     f"/keys/{KEYID}/owner"),
    ("unknown in a role", put("root", "/roles/root/name", "root"), "MEMBER_UNKNOWN",
     "/roles/root/name"),
    ("unknown in meta", put("snapshot", "/meta/nightly.json/size", 1), "MEMBER_UNKNOWN",
     "/meta/nightly.json/size"),
    ("unknown in delegations", put("targets", "/delegations/x", 1), "MEMBER_UNKNOWN",
     "/delegations/x"),
    ("custom where none belongs", put("timestamp", "/custom", {}), "MEMBER_UNKNOWN", "/custom"),
    ("private member, even empty", put("root", KEYVAL + "/private", None), "PRIVATE_KEY_IN_PAYLOAD",
     KEYVAL + "/private"),
    ("any other member of keyval", put("root", KEYVAL + "/x-note", ""), "PRIVATE_KEY_IN_PAYLOAD",
     KEYVAL + "/x-note"),
    ("a private key as the public one", put("root", KEYVAL + "/public", PRIVATE_PEM),
     "PRIVATE_KEY_IN_PAYLOAD", KEYVAL + "/public"),
    ("delegations with no role", drop("bins", "/delegations/succinct_roles"), "MEMBER_MISSING",
     "/delegations"),
    ("keyval an array", put("root", KEYVAL, ["public"]), "MEMBER_TYPE_WRONG", KEYVAL),
    ("public not a string", put("root", KEYVAL + "/public", 4), "MEMBER_TYPE_WRONG",
     KEYVAL + "/public"),
    ("key id list with a number", put("root", "/roles/root/keyids/1", 1), "MEMBER_TYPE_WRONG",
     "/roles/root/keyids/1"),
    ("threshold true", put("root", "/roles/root/threshold", True), "MEMBER_TYPE_WRONG",
     "/roles/root/threshold"),
    ("meta an array", put("snapshot", "/meta", []), "MEMBER_TYPE_WRONG", "/meta"),
    ("custom a string", put("targets", "/targets/releases~1keyd-1.0.tar.gz/custom", ""),
     "MEMBER_TYPE_WRONG", "/targets/releases~1keyd-1.0.tar.gz/custom"),
    ("hash a number", put("snapshot", "/meta/targets.json/hashes/sha256", 0), "MEMBER_TYPE_WRONG",
     "/meta/targets.json/hashes/sha256"),
    ("delegations null", put("targets", "/delegations", None), "MEMBER_TYPE_WRONG", "/delegations"),
]  # fmt: skip

REQUIRED = {
    "root": ["_type", "expires", "keys", "roles", "spec_version", "version",
             f"keys/{KEYID}/keytype", f"keys/{KEYID}/keyval", f"keys/{KEYID}/scheme",
             f"keys/{KEYID}/keyval/public", "roles/root/keyids", "roles/root/threshold"],
    "targets": ["_type", "expires", "spec_version", "targets", "version", "delegations/keys",
                "delegations/roles/0/keyids", "delegations/roles/0/name",
                "delegations/roles/0/terminating", "delegations/roles/0/threshold",
                "targets/releases~1keyd-1.0.tar.gz/hashes",
                "targets/releases~1keyd-1.0.tar.gz/length"],
    "bins": [f"delegations/succinct_roles/{name}"
             for name in ("bit_length", "keyids", "name_prefix", "threshold")],
    "snapshot": ["_type", "expires", "meta", "spec_version", "version",
                 "meta/nightly.json/version"],
    "timestamp": ["_type", "expires", "meta", "spec_version", "version",
                  "meta/snapshot.json/version"],
}  # fmt: skip

MISSING = [
    (f"{name} without {member}", drop(name, f"/{member}"), "MEMBER_MISSING", f"/{member}")
    for name, members in REQUIRED.items()
    for member in members
]


@pytest.mark.parametrize(
    ("raw", "reason", "pointer"),
    [pytest.param(*row[1:], id=row[0]) for row in TEXTS + MEMBERS + MISSING],
)
def test_refused_with_its_reason(raw: bytes, reason: str, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw, max_bytes=1_000_000)
    first = caught.value.findings[0]
    assert (caught.value.reason, first.reason, first.pointer) == (reason, reason, pointer)
    assert first.rule == ("A2" if reason == "ROLE_TYPE_UNKNOWN" else "A1")
    assert all(finding.malformed for finding in caught.value.findings)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


def test_size_comes_before_everything() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(b"\xff" * 101, max_bytes=100)
    assert caught.value.reason == "PAYLOAD_TOO_LARGE"
    assert caught.value.findings[0].rule == "A8"
    assert "100 bytes" in caught.value.message
    assert parse(TIMESTAMP, max_bytes=len(TIMESTAMP)).raw == TIMESTAMP


def test_one_fault_leaves_others_visible() -> None:
    spoilt = document("root")
    spoilt["version"] = "7"
    spoilt["keys"][KEYID]["keyval"]["private"] = "ab"
    spoilt["roles"]["root"]["keyids"][0] = 0
    spoilt["spare"] = {"e\u0301": 1}
    del spoilt["expires"]
    with pytest.raises(InvalidRequest) as caught:
        parse(json.dumps(spoilt).encode(), max_bytes=100_000)
    assert [(finding.reason, finding.pointer) for finding in caught.value.findings] == [
        ("STRING_NOT_NFC", "/spare/e\u0301"),
        ("PRIVATE_KEY_IN_PAYLOAD", KEYVAL + "/private"),
        ("MEMBER_TYPE_WRONG", "/roles/root/keyids/0"),
        ("MEMBER_TYPE_WRONG", "/version"),
        ("MEMBER_UNKNOWN", "/spare"),
        ("MEMBER_MISSING", "/expires"),
        ("NOT_CANONICAL", ""),
    ]
    assert caught.value.message.endswith("(6 more)")


@pytest.mark.parametrize(
    "many",
    [
        with_member("[" + "1.5," * 9_999 + "1]"),
        with_member('["\x01"' + ',"\x01"' * 9_999 + "]"),
        canonical.encode({**document("timestamp"), **{f"y{n}": n for n in range(9_999)}}),
    ],
    ids=["numbers", "controls", "members"],
)
def test_the_refusal_stays_small(many: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(many, max_bytes=1_000_000)
    assert len(caught.value.findings) == 50


def test_a_pointer_names_what_can_be_named() -> None:
    long_name = put("targets", f"/targets/{'a' * 300}", {"hashes": {}, "length": "1"})
    with pytest.raises(InvalidRequest) as caught:
        parse(long_name, max_bytes=100_000)
    assert caught.value.findings[0].pointer == "/targets"


def test_the_wanted_type_is_named() -> None:
    with pytest.raises(InvalidRequest, match="must be `snapshot`"):
        parse(put("snapshot", "/_type", "Snapshot"), role_type="snapshot", max_bytes=10_000)


# What the parser leaves to the rules: well-formed, and wrong only by what it says.
@pytest.mark.parametrize(
    "raw",
    [
        version("0"),
        version("-1"),
        version(str(2**53 - 1)),
        put("root", "/roles/root/threshold", 0),
        put("root", "/roles/root/threshold", 9),
        put("root", "/roles/mirrors", {"keyids": [], "threshold": 1}),
        put("root", "/roles/root/keyids", [KEYID, KEYID]),
        put("timestamp", "/expires", "2030-1-1T0:0:0Z"),
        put("timestamp", "/meta/extra.json", {"version": 1}),
        put("targets", "/delegations/succinct_roles",
            {"keyids": [], "threshold": 1, "bit_length": 99, "name_prefix": ""}),
    ],
)  # fmt: skip
def test_left_to_the_rules(raw: bytes) -> None:
    assert parse(raw, max_bytes=100_000).raw == raw


@pytest.mark.parametrize(
    "raw",
    [
        nested(32),
        with_member('["' + "[{" * 100 + '\\\\",' + "[" * 30 + "]" * 31),
        with_member(f"[{2**53 - 1},{-(2**53 - 1)},true,null]"),
        with_member('"\\\\n \\" ü \U0001f37a \u2028"'),
        put("root", f"/keys/{KEYID}/keyid_hash_algorithms", ["sha256", "sha512"]),
        put("targets", "/targets/releases~1keyd-1.0.tar.gz/custom", {"any": [None, {"": {}}]}),
        put("targets", "/delegations/roles/0/x-note", {"any": 1}),
        drop("targets", "/delegations"),
        drop("root", "/consistent_snapshot"),
        *GOOD.values(),
    ],
)
def test_accepted(raw: bytes) -> None:
    payload = parse(raw, max_bytes=100_000)
    assert payload.raw == raw
    assert payload.digest == hashlib.sha256(raw).hexdigest()
    assert canonical.encode(payload.signed) == raw


def accepts(raw: bytes, extra_members: tuple[str, ...]) -> bool:
    try:
        parse(raw, max_bytes=100_000, extra_members=extra_members)
    except InvalidRequest:
        return False
    return True


@pytest.mark.parametrize("pointer", ["/owner", "/roles/root/owner", f"/keys/{KEYID}/owner"])
def test_policy_may_add_members(pointer: str) -> None:
    raw = put("root", pointer, {"of": "them"})
    assert accepts(raw, ("owner",))
    assert not accepts(raw, ("owners",))


def test_policy_cannot_add_private_keys() -> None:
    assert not accepts(put("root", KEYVAL + "/private", ""), ("private",))


def test_key_objects_under_a_member_of_policy() -> None:
    keys: dict[str, Any] = document("root")["keys"]
    assert accepts(put("timestamp", "/keys", keys), ("keys",))
