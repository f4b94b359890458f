"""Signed notes and verifier keys: what verifies is what was signed, all else is typed refusal."""

from __future__ import annotations

import base64

from keyd.domain import checkpoint as notes
from keyd.errors import InvalidRequest
from tests.fuzz.targets import outcome

DICTIONARY = "note.dict"
# Two published verifier keys (golang.org); nobody here holds their private halves.
VERIFIERS = (
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
)
_KEYS = [notes.parse_verifier(verifier) for verifier in VERIFIERS]


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    _check_note(text)
    _check_verifier(text)
    _check_log_key(data)


def _check_note(text: str) -> None:
    note = outcome(InvalidRequest, notes.parse_note, text)
    if isinstance(note, InvalidRequest):
        assert note.reason == "CHECKPOINT_MALFORMED"
        return
    lines = [_line(signature) for signature in note.signatures]
    assert f"{note.text}\n{''.join(lines)}" == text
    found = outcome(InvalidRequest, notes.parse_checkpoint, text)
    if isinstance(found, InvalidRequest):
        assert found.reason == "CHECKPOINT_MALFORMED"
        return
    assert notes.text_of(found).decode() == note.text
    _check_unsigned(text)


def _line(signature: notes.NoteSignature) -> str:
    encoded = base64.b64encode(signature.key_id + signature.signature).decode()
    return f"\u2014 {signature.name} {encoded}\n"


def _check_unsigned(text: str) -> None:
    """Nobody who fuzzes holds these keys."""
    verdict = outcome(InvalidRequest, notes.verify_checkpoint, text, _KEYS)
    assert isinstance(verdict, InvalidRequest), verdict
    assert verdict.reason in {"CHECKPOINT_SIGNATURE_WRONG", "CHECKPOINT_UNSIGNED"}


def _check_verifier(text: str) -> None:
    key = outcome(InvalidRequest, notes.parse_verifier, text)
    if not isinstance(key, InvalidRequest):
        assert key.verifier() == text
        assert len(key.key_id) == 4


def _check_log_key(data: bytes) -> None:
    key = outcome(InvalidRequest, notes.LogKey, "keyd.test/log", data)
    if isinstance(key, InvalidRequest):
        assert key.reason in {"LOG_KEY_UNDECODABLE", "LOG_KEY_SCHEME"}
    else:
        assert notes.parse_verifier(key.verifier()).key_id == key.key_id
