"""Public keys as modules describe them, and signatures as tokens return them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pkcs11.exceptions as ck
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from pkcs11.constants import Attribute
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism

from keyd.wire.worker_pb2 import Failure, KeyPair
from keyd.worker import public_keys, schemes
from keyd.worker.failures import WorkerFailure, code_of, may_pass, to_failure
from keyd.worker.generate import check_attributes

CURVES = {
    "ecdsa-sha2-nistp256": ec.SECP256R1(),
    "ecdsa-sha2-nistp384": ec.SECP384R1(),
    "ecdsa-sha2-nistp521": ec.SECP521R1(),
}
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


def octets(point: bytes) -> bytes:
    """An OCTET STRING around a point, as CKA_EC_POINT should be."""
    head = bytes([len(point)]) if len(point) < 128 else bytes([0x81, len(point)])
    return b"\x04" + head + point


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


@pytest.mark.parametrize("scheme", CURVES)
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_elliptic_points_are_read_wrapped_and_bare(scheme: str, wrapped: bool) -> None:
    key = ec.generate_private_key(CURVES[scheme]).public_key()
    point = point_of(key)
    attributes: dict[Attribute, Any] = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: public_keys.ec_parameters(scheme),
        Attribute.EC_POINT: octets(point) if wrapped else point,
    }
    found = public_keys.public_key(attributes)
    assert found == key
    assert public_keys.default_scheme(key) == scheme


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
@pytest.mark.parametrize("curve", ["06032b6570", "130c656477617264733235353139"])
def test_ed25519_is_read_by_identifier_and_by_name(curve: str, wrapped: bool) -> None:
    raw = ED25519.public_key().public_bytes_raw()
    attributes: dict[Attribute, Any] = {
        Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
        Attribute.EC_PARAMS: bytes.fromhex(curve),
        Attribute.EC_POINT: octets(raw) if wrapped else raw,
    }
    assert public_keys.public_key(attributes) == ED25519.public_key()


def test_rsa_is_read_from_modulus_and_exponent() -> None:
    numbers = RSA.public_key().public_numbers()
    attributes: dict[Attribute, Any] = {
        Attribute.KEY_TYPE: KeyType.RSA,
        Attribute.MODULUS: numbers.n.to_bytes(256),
        Attribute.PUBLIC_EXPONENT: b"\1\0\1",
    }
    assert public_keys.public_key(attributes) == RSA.public_key()


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {Attribute.KEY_TYPE: KeyType.AES},
        {Attribute.KEY_TYPE: KeyType.RSA},
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: b"\x06\x01\x01"},
        {
            Attribute.KEY_TYPE: KeyType.EC,
            Attribute.EC_PARAMS: public_keys.ec_parameters("ecdsa-sha2-nistp256"),
            Attribute.EC_POINT: octets(b"\4" + bytes(64)),
        },
        {
            Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
            Attribute.EC_PARAMS: b"\x06\x03\x2b\x65\x70",
            Attribute.EC_POINT: b"short",
        },
    ],
)
def test_what_is_no_key_is_none(attributes: dict[Attribute, Any]) -> None:
    assert public_keys.public_key(attributes) is None


def test_a_certificate_tells_its_key() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "piv")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, RSA.public_key(), 1, now, now + timedelta(1))
        .sign(RSA, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    assert public_keys.certified_key(certificate) == RSA.public_key()
    assert public_keys.certified_key(b"nonsense") is None
    assert public_keys.certified_key(b"") is None


def test_small_rsa_and_odd_curves_have_no_scheme() -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    odd = ec.generate_private_key(ec.SECP256K1()).public_key()
    assert public_keys.default_scheme(small) == public_keys.default_scheme(odd) == ""
    assert not schemes.fits("rsassa-pss-sha256", small)
    assert not schemes.fits("ecdsa-sha2-nistp256", odd)
    assert not schemes.fits("", odd)


def test_schemes_fit_their_own_keys_only() -> None:
    keys = {scheme: ec.generate_private_key(curve) for scheme, curve in CURVES.items()}
    everything = [*CURVES, "ed25519", "rsassa-pss-sha256", "rsassa-pss-sha512", "unknown", ""]
    for scheme, key in keys.items():
        assert [each for each in everything if schemes.fits(each, key.public_key())] == [scheme]
    fitting = [each for each in everything if schemes.fits(each, RSA.public_key())]
    assert fitting == ["rsassa-pss-sha256", "rsassa-pss-sha512"]
    assert [each for each in everything if schemes.fits(each, ED25519.public_key())] == ["ed25519"]


class Signer:
    """In place of a private key object: returns what it was made with, keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.asked: list[tuple[bytes, dict[str, Any]]] = []

    def sign(self, data: bytes, **arguments: Any) -> bytes:
        self.asked.append((data, arguments))
        return self._answer


def test_a_signature_of_the_wrong_length_is_the_tokens_failure() -> None:
    for scheme in (*CURVES, "ed25519"):
        with pytest.raises(WorkerFailure) as failed:
            schemes.sign(Signer(b"\1" * 63), scheme, b"data", set())  # type: ignore[arg-type]
        assert failed.value.code == "SIGNATURE_LENGTH"


def test_pss_falls_back_to_the_raw_mechanism_over_a_digest() -> None:
    both, raw = Signer(b"signature"), Signer(b"signature")
    hashing = {Mechanism.SHA256_RSA_PKCS_PSS, Mechanism.RSA_PKCS_PSS}
    schemes.sign(both, "rsassa-pss-sha256", b"data", hashing)  # type: ignore[arg-type]
    schemes.sign(raw, "rsassa-pss-sha256", b"data", {Mechanism.RSA_PKCS_PSS})  # type: ignore[arg-type]
    [(asked, arguments)] = both.asked
    assert asked == b"data"
    assert arguments["mechanism"] is Mechanism.SHA256_RSA_PKCS_PSS
    [(digest, fallback)] = raw.asked
    assert len(digest) == 32
    assert fallback["mechanism"] is Mechanism.RSA_PKCS_PSS
    # The salt is as long as the digest.
    assert arguments["mechanism_param"][2] == fallback["mechanism_param"][2] == 32


@pytest.mark.parametrize(
    ("error", "kind", "code", "passes"),
    [
        (ck.DeviceError(), Failure.KIND_TOKEN_FAILED, "DeviceError", True),
        (ck.ObjectHandleInvalid(), Failure.KIND_TOKEN_FAILED, "ObjectHandleInvalid", True),
        (ck.UserNotLoggedIn(), Failure.KIND_NOT_LOGGED_IN, "UserNotLoggedIn", False),
        (ck.MechanismInvalid(), Failure.KIND_NOT_SUPPORTED, "MechanismInvalid", False),
        (
            PKCS11Error("Unmapped error code 0x80000042"),
            Failure.KIND_TOKEN_FAILED,
            "CKR_0x80000042",
            True,
        ),
        (PKCS11Error("text with a secret"), Failure.KIND_TOKEN_FAILED, "PKCS11Error", True),
    ],
)
def test_failures_are_named_without_any_text(
    error: PKCS11Error, kind: Failure.Kind.ValueType, code: str, passes: bool
) -> None:
    failure = to_failure(error)
    assert (failure.kind, failure.code, failure.pin_presented) == (kind, code, False)
    assert code_of(error) == code
    assert may_pass(error) is passes


@pytest.mark.parametrize("error", [MemoryError("x"), ValueError("secret"), KeyError("secret")])
def test_any_exception_has_an_answer(error: Exception) -> None:
    failure = to_failure(error)
    assert failure.kind == Failure.KIND_TOKEN_FAILED
    assert failure.code == type(error).__name__


GOOD = {
    "public_der": b"der",
    "private_found": True,
    "public_found": True,
    "sensitive": True,
    "local": True,
    "never_extractable": True,
    "always_sensitive": True,
    "may_sign": True,
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"extractable": True}, "CKA_EXTRACTABLE"),
        ({"sensitive": False}, "CKA_SENSITIVE"),
        ({"local": False}, "CKA_LOCAL"),
        ({"never_extractable": False}, "CKA_NEVER_EXTRACTABLE"),
        ({"always_sensitive": False}, "CKA_ALWAYS_SENSITIVE"),
        ({"may_sign": False}, "CKA_SIGN"),
        ({"duplicates": 1}, "NOT_ONE_PAIR"),
        ({"public_found": False}, "NOT_ONE_PAIR"),
        ({"public_der": b""}, "PUBLIC_KEY_UNREADABLE"),
    ],
)
def test_a_new_key_without_a_demanded_attribute_is_refused(
    change: dict[str, Any], code: str
) -> None:
    check_attributes(KeyPair(**GOOD))  # type: ignore[arg-type]
    with pytest.raises(WorkerFailure) as refused:
        check_attributes(KeyPair(**{**GOOD, **change}))
    assert refused.value.code == code
    assert refused.value.kind == Failure.KIND_ATTRIBUTES_REFUSED


def test_only_cka_local_can_be_waived() -> None:
    pair = KeyPair(**{**GOOD, "local": False})  # type: ignore[arg-type]
    check_attributes(pair, waive_local=True)
    pair.never_extractable = False
    with pytest.raises(WorkerFailure):
        check_attributes(pair, waive_local=True)
