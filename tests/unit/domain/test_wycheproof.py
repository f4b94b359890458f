"""Project Wycheproof's signature vectors: every valid one accepted, every invalid one refused.

Nothing is left out: the files hold only schemes, hashes and salt lengths that keyd verifies, and no
case whose result is "acceptable". Each is judged on both ways into keyd: a token's answer under the
registered key (DER), and a metadata file's signature (PEM or hex). RSA PKCS#1 v1.5 is in
test_pkcs1_forgeries.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import Scheme
from keyd.domain.public_keys import (
    check_matches_scheme,
    tuf_key,
    verify,
    verify_metadata_signatures,
)
from keyd.errors import SelfCheckFailed

FILES = {
    "ecdsa_secp256r1_sha256_test.json": Scheme.ECDSA_P256,
    "ecdsa_secp384r1_sha384_test.json": Scheme.ECDSA_P384,
    "ecdsa_secp521r1_sha512_test.json": Scheme.ECDSA_P521,
    "ed25519_test.json": Scheme.ED25519,
    "rsa_pss_2048_sha256_mgf1_32_test.json": Scheme.RSA_PSS_SHA256,
    "rsa_pss_3072_sha256_mgf1_32_test.json": Scheme.RSA_PSS_SHA256,
    "rsa_pss_4096_sha512_mgf1_64_test.json": Scheme.RSA_PSS_SHA512,
}


def accepts(public_der: bytes, scheme: Scheme, case: dict[str, Any]) -> bool:
    try:
        verify(public_der, scheme, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
    except SelfCheckFailed as refused:
        return refused.reason != "SIGNATURE_INVALID"
    return True


def counts(public_der: bytes, scheme: Scheme, case: dict[str, Any]) -> bool:
    keyid, key_object = tuf_key(public_der, scheme)
    signatures = [(keyid, case["sig"])]
    found = verify_metadata_signatures(bytes.fromhex(case["msg"]), signatures, {keyid: key_object})
    return bool(found)


@pytest.mark.parametrize(("name", "scheme"), FILES.items())
def test_verdicts(shared_data: Path, name: str, scheme: Scheme) -> None:
    vectors = json.loads((shared_data / "wycheproof" / name).read_bytes())
    verdicts = {"valid": 0, "invalid": 0}
    for group in vectors["testGroups"]:
        public_der = bytes.fromhex(group["publicKeyDer"])
        check_matches_scheme(public_der, scheme)
        for case in group["tests"]:
            wanted = {"valid": True, "invalid": False}[case["result"]]
            assert accepts(public_der, scheme, case) is wanted, (case["tcId"], case["comment"])
            assert counts(public_der, scheme, case) is wanted, (case["tcId"], case["comment"])
            verdicts[case["result"]] += 1
    assert sum(verdicts.values()) == vectors["numberOfTests"]
    assert min(verdicts.values()) > 40


def test_no_file_is_forgotten(shared_data: Path) -> None:
    assert {file.name for file in (shared_data / "wycheproof").glob("*.json")} == set(FILES)
