"""Public keys in both forms, key ids, and every way a signature may fail to be one."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import Metadata

from keyd.domain import canonical, public_keys
from keyd.domain.keys import Scheme
from keyd.domain.public_keys import (
    check_matches_scheme,
    fingerprint_of,
    keyid_three_members,
    keyid_whole_object,
    load,
    tuf_key,
    verify,
    verify_metadata_signatures,
)
from keyd.errors import InvalidRequest, SelfCheckFailed
from tests.unit.domain.key_pairs import SCHEMES, der, private_key, pss, public_der, sign

P256 = "ecdsa-sha2-nistp256"
DATA = b"the payload"


def reason_of(key_object: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load(key_object)
    with pytest.raises(InvalidRequest):
        fingerprint_of(key_object)
    return caught.value.reason


def key_object(scheme: str, /, **changes: str) -> dict[str, Any]:
    """The TUF key object of a key pair, with keytype, scheme or public replaced."""
    made = tuf_key(public_der(scheme), scheme)[1]
    made["keyval"]["public"] = changes.pop("public", made["keyval"]["public"])
    return {**made, **changes}


def pem_of(spki: bytes) -> str:
    text = base64.encodebytes(spki).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_key_objects_are_those_of_securesystemslib(scheme: str) -> None:
    theirs = SSlibKey.from_crypto(private_key(scheme).public_key(), scheme=scheme)
    keyid, made = tuf_key(public_der(scheme), scheme)
    assert (keyid, made) == (theirs.keyid, theirs.to_dict())
    assert keyid == keyid_three_members(made) == keyid_whole_object(made)
    loaded = load(made)
    assert loaded.spki == public_der(scheme)
    assert (loaded.keytype, loaded.scheme) == (made["keytype"], scheme)
    assert fingerprint_of(made) == hashlib.sha256(public_der(scheme)).hexdigest()


def test_key_objects_belong_to_the_caller() -> None:
    key_object(P256)["keyval"]["public"] = "spoilt"
    assert tuf_key(public_der(P256), P256)[1]["keyval"]["public"] != "spoilt"


def test_key_ids_by_members() -> None:
    plain = key_object(P256)
    owned = {**plain, "x-owner": "me"}
    assert keyid_three_members(owned) == keyid_three_members(plain) == keyid_whole_object(plain)
    assert keyid_whole_object(owned) == hashlib.sha256(canonical.encode(owned)).hexdigest()
    assert keyid_whole_object(owned) != keyid_whole_object(plain)


def test_one_material_in_many_spellings() -> None:
    pem = key_object(P256)["keyval"]["public"]
    spellings = [
        key_object(P256),
        key_object(P256, keytype=P256),
        key_object(P256, public=pem.rstrip("\n")),
        key_object(P256, public=pem_of(public_der(P256))),
        {**key_object(P256), "x-owner": "me"},
    ]
    assert len({fingerprint_of(spelling) for spelling in spellings}) == 1
    digits = key_object("ed25519")["keyval"]["public"]
    assert fingerprint_of(key_object("ed25519", public=digits.upper())) == fingerprint_of(
        key_object("ed25519")
    )


def compressed_p256() -> bytes:
    """The P-256 key with its point compressed, which DER readers accept."""
    point = private_key(P256).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = "3039301306072a8648ce3d020106082a8648ce3d030107032200"  # RFC 5480 2.1.1, 2.2
    return bytes.fromhex(header) + bytes(point)


def rsa_der(bits: int, exponent: int = 3) -> bytes:
    """An RSA key of odd modulus; nobody has its private half."""
    spki = der(rsa.RSAPublicNumbers(3, (1 << bits) - 1).public_key())
    assert spki.endswith(b"\x02\x01\x03")
    return spki[:-1] + bytes([exponent])


def ed25519_hex(y: int, sign_bit: int = 0) -> str:
    return (y | sign_bit << 255).to_bytes(32, "little").hex()


PEM = key_object(P256)["keyval"]["public"]
POINT = (
    private_key(P256).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()
)
X25519 = der(x25519.X25519PrivateKey.generate().public_key())
P = 2**255 - 19

BAD_KEYS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown scheme", key_object(P256, scheme="rsassa-pss-sha1"), "KEY_SCHEME_UNKNOWN"),
    ("keytype of another scheme", key_object(P256, keytype="rsa"), "KEY_SCHEME_UNKNOWN"),
    ("certificates of Notary", key_object(P256, keytype="ecdsa-x509"), "KEY_SCHEME_UNKNOWN"),
    ("deprecated keytype of another curve", key_object(P256, keytype="ecdsa-sha2-nistp384"),
     "KEY_SCHEME_UNKNOWN"),
    ("empty", key_object(P256, public=""), "KEY_UNDECODABLE"),
    ("no PEM", key_object(P256, public="MFkw"), "KEY_UNDECODABLE"),
    ("a bare point", key_object(P256, public=POINT), "KEY_UNDECODABLE"),
    ("hex that is no point", key_object(P256, public="04" * 65), "KEY_UNDECODABLE"),
    ("PEM without a key", key_object(P256, public=pem_of(b"\x30\x00")), "KEY_UNDECODABLE"),
    ("PEM of no base64", key_object(P256, public=PEM.replace("\n", "\n=", 1)), "KEY_UNDECODABLE"),
    ("two PEM blocks", key_object(P256, public=PEM + PEM), "KEY_UNDECODABLE"),
    ("text before PEM", key_object(P256, public="mine\n" + PEM), "KEY_UNDECODABLE"),
    ("very long", key_object(P256, public=PEM + "\n" * 9000), "KEY_UNDECODABLE"),
    ("PKCS#1 PEM", key_object("rsassa-pss-sha256", public=PEM.replace("PUBLIC", "RSA PUBLIC")),
     "KEY_UNDECODABLE"),
    ("another curve", key_object(P256, public=pem_of(public_der("ecdsa-sha2-nistp384"))),
     "KEY_CURVE_MISMATCH"),
    ("a curve TUF does not know",
     key_object(P256, public=pem_of(der(ec.generate_private_key(ec.SECP256K1()).public_key()))),
     "KEY_CURVE_MISMATCH"),
    ("an RSA key", key_object(P256, public=pem_of(public_der("rsassa-pss-sha256"))),
     "KEY_CURVE_MISMATCH"),
    ("an X25519 key", key_object(P256, public=pem_of(X25519)), "KEY_CURVE_MISMATCH"),
    ("an EC key", key_object("rsassa-pss-sha256", public=PEM), "KEY_CURVE_MISMATCH"),
    ("RSA 2047", key_object("rsassa-pss-sha256", public=pem_of(rsa_der(2047))), "KEY_TOO_WEAK"),
    ("RSA 1024", key_object("rsa-pkcs1v15-sha256", public=pem_of(rsa_der(1024))), "KEY_TOO_WEAK"),
    ("RSA 8193", key_object("rsassa-pss-sha256", public=pem_of(rsa_der(8193))), "KEY_UNDECODABLE"),
    ("RSA exponent 1", key_object("rsassa-pss-sha256", public=pem_of(rsa_der(2048, 1))),
     "KEY_UNDECODABLE"),
    ("Ed25519 in PEM", key_object("ed25519", public=pem_of(public_der("ed25519"))),
     "KEY_UNDECODABLE"),
    ("Ed25519 too short", key_object("ed25519", public="ab" * 31), "KEY_UNDECODABLE"),
    ("Ed25519 with spaces", key_object("ed25519", public="ab " * 21 + "a"), "KEY_UNDECODABLE"),
    ("Ed25519 beyond the field", key_object("ed25519", public=ed25519_hex(P)), "KEY_UNDECODABLE"),
    ("Ed25519 neutral point", key_object("ed25519", public=ed25519_hex(1)), "KEY_TOO_WEAK"),
    ("Ed25519 order 2", key_object("ed25519", public=ed25519_hex(P - 1)), "KEY_TOO_WEAK"),
    ("Ed25519 order 4", key_object("ed25519", public=ed25519_hex(0, 1)), "KEY_TOO_WEAK"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "reason"), [pytest.param(row[1], row[2], id=row[0]) for row in BAD_KEYS]
)
def test_bad_key_objects(bad: dict[str, Any], reason: str) -> None:
    assert reason_of(bad) == reason


def test_bare_points_are_refused_but_recognised() -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(key_object(P256, keytype=P256, public=POINT))
    assert caught.value.details["fingerprint"] == fingerprint_of(key_object(P256))


def small_order_encodings() -> set[bytes]:
    """Every point of order 1, 2, 4 or 8: multiples of one of order 8, by RFC 8032's formulas."""
    d = -121665 * pow(121666, -1, P) % P

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        product = d * a[0] * b[0] * a[1] * b[1]
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P)
        y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
        return x % P, y % P

    def on_curve(y: int) -> tuple[int, int] | None:
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        for root in (x, x * pow(2, (P - 1) // 4, P) % P):
            if root * root % P == square:
                return root, y
        return None

    def times(factor: int, point: tuple[int, int]) -> tuple[int, int]:
        total = (0, 1)
        for bit in bin(factor)[2:]:
            total = add(total, total)
            total = add(total, point) if bit == "1" else total
        return total

    group_order = 2**252 + 27742317777372353535851937790883648493
    torsion = next(
        point
        for y in range(2, 200)
        if (start := on_curve(y)) and times(4, point := times(group_order, start)) != (0, 1)
    )
    points = [times(n, torsion) for n in range(8)]
    return {(y | (x & 1) << 255).to_bytes(32, "little") for x, y in points}


def test_no_point_of_small_order_is_a_key() -> None:
    encodings = small_order_encodings()
    assert len(encodings) == 8
    for encoding in encodings:
        assert reason_of(key_object("ed25519", public=encoding.hex())) == "KEY_TOO_WEAK"
    # The reason: the library itself takes a signature by nobody, over anything.
    neutral = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(ed25519_hex(1)))
    neutral.verify(bytes.fromhex(ed25519_hex(1)) + bytes(32), DATA)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_der_fits_its_scheme(scheme: Scheme) -> None:
    check_matches_scheme(public_der(scheme), scheme)


@pytest.mark.parametrize(
    ("public", "scheme", "reason"),
    [
        (b"", Scheme.ECDSA_P256, "KEY_UNDECODABLE"),
        (public_der(P256) + b"\0", Scheme.ECDSA_P256, "KEY_UNDECODABLE"),
        (compressed_p256(), Scheme.ECDSA_P256, "KEY_UNDECODABLE"),
        (public_der(P256), Scheme.ECDSA_P384, "KEY_CURVE_MISMATCH"),
        (public_der(P256), Scheme.ED25519, "KEY_CURVE_MISMATCH"),
        (public_der("ed25519"), Scheme.RSA_PSS_SHA256, "KEY_CURVE_MISMATCH"),
        (rsa_der(1024), Scheme.RSA_PSS_SHA512, "KEY_TOO_WEAK"),
        (public_der(P256), "gpg", "KEY_SCHEME_UNKNOWN"),
    ],
    ids=str.split("empty trailing compressed curve kind1 kind2 weak scheme"),
)
def test_der_that_does_not_fit(public: bytes, scheme: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_matches_scheme(public, scheme)
    assert caught.value.reason == reason
    with pytest.raises(InvalidRequest):
        verify(public, scheme, DATA, b"")
    with pytest.raises(InvalidRequest):
        tuf_key(public, scheme)


def is_refused(scheme: str, data: bytes, signature: bytes) -> bool:
    try:
        verify(public_der(scheme), scheme, data, signature)
    except SelfCheckFailed as refused:
        return refused.reason == "SIGNATURE_INVALID"
    return False


@pytest.mark.parametrize("scheme", SCHEMES)
def test_signatures(scheme: str) -> None:
    signature = sign(scheme, DATA)
    verify(public_der(scheme), scheme, DATA, signature)
    keyid, made = tuf_key(public_der(scheme), scheme)
    theirs = SSlibKey.from_dict(keyid, made)
    theirs.verify_signature(Signature(keyid, signature.hex()), DATA)
    assert is_refused(scheme, DATA + b"!", signature)
    assert is_refused(scheme, DATA, signature[:-1] + bytes([signature[-1] ^ 1]))
    assert is_refused(scheme, DATA, signature[:-1])
    assert is_refused(scheme, DATA, signature + b"\0")
    assert is_refused(scheme, DATA, b"")


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "ecdsa" in scheme])
def test_elliptic_signatures_are_der_alone(scheme: str) -> None:
    signature = sign(scheme, DATA)
    r, s = utils.decode_dss_signature(signature)
    size = (private_key(scheme).curve.key_size + 7) // 8
    assert is_refused(scheme, DATA, r.to_bytes(size, "big") + s.to_bytes(size, "big"))
    # BER: the outer length written in more bytes than it needs.
    start = 3 if signature[1] == 0x81 else 2
    length = len(signature) - start
    assert is_refused(scheme, DATA, b"\x30\x82\0" + bytes([length]) + signature[start:])


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "ecdsa" in scheme])
def test_a_twin_of_a_signature_adds_no_vote(scheme: str) -> None:
    """Anybody can turn (r, s) into (r, n - s), which verifies as well (FIPS 186-5 6.4.2)."""
    signature = sign(scheme, DATA)
    r, s = utils.decode_dss_signature(signature)
    twin = utils.encode_dss_signature(r, private_key(scheme).curve.group_order - s)
    verify(public_der(scheme), scheme, DATA, twin)
    made = {name: key_object(scheme) for name in ("a", "b")}
    pairs = [("a", signature.hex()), ("b", twin.hex())]
    assert len(verify_metadata_signatures(DATA, pairs, made)) == 1


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "pss" in scheme])
def test_the_salt_is_as_long_as_the_digest(scheme: str) -> None:
    size = int(scheme[-3:]) // 8
    verify(public_der(scheme), scheme, DATA, pss(scheme, DATA, size))
    for salt_length in (0, size - 1, size + 1):
        assert is_refused(scheme, DATA, pss(scheme, DATA, salt_length))


def test_one_scheme_is_not_another() -> None:
    assert is_refused("rsassa-pss-sha384", DATA, sign("rsassa-pss-sha256", DATA))
    assert is_refused("rsa-pkcs1v15-sha256", DATA, sign("rsassa-pss-sha256", DATA))


@given(st.sampled_from(SCHEMES), st.binary(max_size=600))
def test_any_bytes_as_signature(scheme: str, signature: bytes) -> None:
    assert is_refused(scheme, DATA, signature)


def two_keys() -> dict[str, dict[str, Any]]:
    return {"a": key_object(P256), "b": key_object("ed25519")}


def test_metadata_signatures_give_the_materials_that_signed() -> None:
    keys = two_keys()
    both = [("a", sign(P256, DATA).hex()), ("b", sign("ed25519", DATA).hex().upper())]
    first, second = fingerprint_of(keys["a"]), fingerprint_of(keys["b"])
    assert verify_metadata_signatures(DATA, both, keys) == {first, second}
    assert verify_metadata_signatures(DATA, both, {"a": keys["a"]}) == {first}
    assert verify_metadata_signatures(DATA + b"!", both, keys) == frozenset()
    assert verify_metadata_signatures(DATA, [], keys) == frozenset()


def test_one_key_under_two_ids_counts_once() -> None:
    keys = {"a": key_object(P256), "b": {**key_object(P256), "x-owner": "me"}}
    signature = sign(P256, DATA).hex()
    signed = verify_metadata_signatures(DATA, [("a", signature), ("b", signature)], keys)
    assert signed == {fingerprint_of(keys["a"])}


@pytest.mark.parametrize(
    "signature",
    ["", "XXX", "zz", "abc", "ab cd", sign("ed25519", DATA).hex(), sign(P256, b"").hex()],
    ids=range(7),
)
def test_what_is_no_signature_counts_for_nothing(signature: str) -> None:
    assert verify_metadata_signatures(DATA, [("a", signature)], two_keys()) == frozenset()


def test_keys_that_do_not_decode_count_for_nothing() -> None:
    keys = {"a": key_object(P256, public=POINT), "b": key_object("ed25519")}
    signatures = [("a", sign(P256, DATA).hex()), ("b", sign("ed25519", DATA).hex())]
    signed = verify_metadata_signatures(DATA, signatures, keys)
    assert signed == {fingerprint_of(keys["b"])}


def test_the_stores_are_bounded() -> None:
    for store in (public_keys._load, public_keys._load_der):
        assert (store.cache_info().maxsize or 0) >= 256


@pytest.mark.filterwarnings("ignore:keytype .* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("folder", ["sigstore-root-signing", "sigstore-staging"])
def test_published_root_chains(shared_data: Path, folder: str) -> None:
    """The verdicts agree with python-tuf's over every step of two real chains."""
    history = shared_data / "tuf" / folder / "root_history"
    steps = 0
    previous: Metadata[Any] | None = None
    for file in sorted(history.glob("*.root.json"), key=lambda file: int(file.name.split(".")[0])):
        content = json.loads(file.read_bytes())
        if folder == "sigstore-root-signing" and content["signed"]["version"] < 5:
            assert signers_of(content, content["signed"]) == frozenset()  # bare points
            continue
        metadata: Metadata[Any] = Metadata.from_bytes(file.read_bytes())
        for judge in filter(None, (previous, metadata)):
            result = judge.signed.get_verification_result(
                "root", metadata.signed_bytes, metadata.signatures
            )
            theirs = {fingerprint_of(key.to_dict()) for key in result.signed.values()}
            assert signers_of(content, judge.signed.to_dict()) == theirs
            assert len(theirs) >= result.threshold
        previous = metadata
        steps += 1
    assert steps >= 11


def signers_of(content: dict[str, Any], root: dict[str, Any]) -> frozenset[str]:
    signatures = [(entry["keyid"], entry["sig"]) for entry in content["signatures"]]
    listed = {keyid: root["keys"][keyid] for keyid in root["roles"]["root"]["keyids"]}
    return verify_metadata_signatures(canonical.encode(content["signed"]), signatures, listed)
