"""Signed notes: published vectors, both signature types, and strictness against bent notes."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain import checkpoint as notes
from keyd.domain.audit import Checkpoint
from keyd.errors import InvalidRequest

# From the tests of golang.org/x/mod/sumdb/note and the configuration of cmd/go.
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb"
    "6KE6RyyBwJnAM=\n"
)
SUMDB_VERIFIER = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
# From c2sp.org/tlog-checkpoint.
C2SP_NOTE = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2"
    "q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
ORIGIN = "keyd.example.com/log"


def der(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


ED_PRIVATE = ed25519.Ed25519PrivateKey.generate()
EC_PRIVATE = ec.generate_private_key(ec.SECP256R1())
ED_KEY = notes.LogKey(ORIGIN, der(ED_PRIVATE.public_key()))
EC_KEY = notes.LogKey(ORIGIN, der(EC_PRIVATE.public_key()))
CHECKPOINT = Checkpoint(origin=ORIGIN, size=7, root=bytes(range(32)))
TEXT = notes.text_of(CHECKPOINT)
ED_SIGNED = notes.signed(CHECKPOINT, ED_KEY, ED_PRIVATE.sign(TEXT))
EC_SIGNED = notes.signed(CHECKPOINT, EC_KEY, EC_PRIVATE.sign(TEXT, ec.ECDSA(SHA256())))


def test_a_published_note_verifies() -> None:
    key = notes.parse_verifier(GO_VERIFIER)
    note = notes.parse_note(GO_NOTE)
    assert note.signatures[0].key_id == key.key_id
    key.verify(note.text.encode(), note.signatures[0].signature)


@pytest.mark.parametrize("verifier", [GO_VERIFIER, SUMDB_VERIFIER])
def test_published_verifier_keys_round_trip(verifier: str) -> None:
    assert notes.parse_verifier(verifier).verifier() == verifier


def test_the_specification_s_checkpoint_parses() -> None:
    found = notes.parse_checkpoint(C2SP_NOTE)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert notes.text_of(found).decode() == C2SP_NOTE[: C2SP_NOTE.index("\n\n") + 1]


@pytest.mark.parametrize(
    ("signed", "key"), [(ED_SIGNED, ED_KEY), (EC_SIGNED, EC_KEY)], ids=["ed25519", "ecdsa"]
)
def test_signed_checkpoints_verify(signed: Checkpoint, key: notes.LogKey) -> None:
    assert notes.verify_checkpoint(signed.note, [key]) == signed
    again = notes.parse_verifier(key.verifier())
    assert notes.verify_checkpoint(signed.note, [again]) == signed


def test_a_wrong_signature_makes_no_note() -> None:
    with pytest.raises(InvalidRequest) as caught:
        notes.signed(CHECKPOINT, ED_KEY, bytes(64))
    assert caught.value.reason == "CHECKPOINT_SIGNATURE_WRONG"


def test_lines_of_unknown_keys_are_ignored() -> None:
    line = EC_SIGNED.note.splitlines()[-1]
    both = f"{ED_SIGNED.note}{line}\n"
    assert notes.verify_checkpoint(both, [ED_KEY]).size == 7
    assert notes.verify_checkpoint(both, [EC_KEY]).size == 7
    with pytest.raises(InvalidRequest) as caught:
        notes.verify_checkpoint(EC_SIGNED.note, [ED_KEY])
    assert caught.value.reason == "CHECKPOINT_UNSIGNED"


def test_one_wrong_signature_of_a_known_key_refuses_the_note() -> None:
    line = base64.b64encode(EC_KEY.key_id + bytes(70)).decode()
    note = f"{ED_SIGNED.note}— {ORIGIN} {line}\n"
    with pytest.raises(InvalidRequest) as caught:
        notes.verify_checkpoint(note, [ED_KEY, EC_KEY])
    assert caught.value.reason == "CHECKPOINT_SIGNATURE_WRONG"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n7\n", "\n07\n"),
        ("\n7\n", "\n-7\n"),
        ("\n7\n", "\n+7\n"),
        ("\n7\n", "\n7 \n"),
        ("\n7\n", "\n\uff17\n"),
        ("\n7\n", "\n\n"),
        ("\n7\n", f"\n{1 << 63}\n"),
        ("\n7\n", "\n" + "9" * 5000 + "\n"),
        ("\n7\n", "\n7\n7\n"),
        (f"{ORIGIN}\n7", "\n7"),
        ("Hh8=\n", "Hh8\n"),
        ("Hh8=\n", "Hh9=\n"),
        ("Hh8=\n", "\n"),
        ("=\n\n", "=\nextension\n\n"),
        ("=\n\n", "=\n"),
        ("\n\n", "\r\n\r\n"),
        ("— ", "- "),
        ("— ", "—"),
        ("— ", "—\u00a0"),
        (f"— {ORIGIN}", "— "),
        (f"— {ORIGIN}", "— a+b"),
        (f"— {ORIGIN}", "— a\u2003b"),
        (f"— {ORIGIN} ", f"— {ORIGIN}  "),
        (f"— {ORIGIN} ", f"— {ORIGIN} AAAA "),
    ],
)
def test_bent_checkpoints_are_malformed(old: str, new: str) -> None:
    assert old in ED_SIGNED.note
    with pytest.raises(InvalidRequest) as caught:
        notes.parse_checkpoint(ED_SIGNED.note.replace(old, new, 1))
    assert caught.value.reason == "CHECKPOINT_MALFORMED"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        ED_SIGNED.note[:-1],
        ED_SIGNED.note + "\n",
        ED_SIGNED.note + "x\n",
        ED_SIGNED.note + "\x00\n",
        "\ud800" + ED_SIGNED.note,
        f"{TEXT.decode()}\n— {ORIGIN} AAAAAA==\n",
        TEXT.decode() + "\n" + (ED_SIGNED.note.splitlines()[-1] + "\n") * 101,
        "x" * (notes.MAX_NOTE_CHARS + 1),
    ],
)
def test_what_is_no_note_is_malformed(note: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        notes.parse_checkpoint(note)
    assert caught.value.reason == "CHECKPOINT_MALFORMED"


@given(position=st.integers(0, len(ED_SIGNED.note) - 1), character=st.characters())
def test_no_changed_note_verifies_as_another_checkpoint(position: int, character: str) -> None:
    changed = ED_SIGNED.note[:position] + character + ED_SIGNED.note[position + 1 :]
    if changed == ED_SIGNED.note:
        return
    with pytest.raises(InvalidRequest):
        notes.verify_checkpoint(changed, [ED_KEY])


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="CHECKPOINT_MALFORMED"):
        notes.parse_checkpoint(text)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x7fb"])
def test_unusable_origins_are_refused(origin: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        notes.check_origin(origin)
    assert caught.value.reason == "LOG_ORIGIN_MALFORMED"


def test_other_keys_sign_no_checkpoints() -> None:
    p384 = der(ec.generate_private_key(ec.SECP384R1()).public_key())
    unheard_of = der(ED_PRIVATE.public_key()).replace(b"\x2b\x65\x70", b"\x2b\x65\x0f")
    for public, reason in (
        (p384, "LOG_KEY_SCHEME"),
        (b"\x30\x00", "LOG_KEY_UNDECODABLE"),
        (unheard_of, "LOG_KEY_UNDECODABLE"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            notes.LogKey(ORIGIN, public)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "verifier",
    [
        GO_VERIFIER.replace("c74f20a3", "c74f20a4"),
        GO_VERIFIER.replace("c74f20a3", "C74F20A3"),
        GO_VERIFIER.replace("ARpc", "Axpc"),
        GO_VERIFIER[:-4],
        GO_VERIFIER.replace("Peter", "Pieter"),
        "PeterNeumann",
        "",
    ],
)
def test_bent_verifier_keys_are_refused(verifier: str) -> None:
    with pytest.raises(InvalidRequest):
        notes.parse_verifier(verifier)
