"""Checkpoints as C2SP signed notes: encode, parse, verify. Pure; a token key makes the signature.

The text is three lines: origin, size in decimal, root in base64 (c2sp.org/tlog-checkpoint). Below
an empty line stand signature lines, `— <key name> <base64(4-byte key id || signature)>`
(c2sp.org/signed-note). Two signature types: 0x01, Ed25519 over the text; 0x02, ECDSA P-256 over
its SHA-256 in DER, for tokens that cannot do EdDSA.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from keyd.domain.audit import Checkpoint
from keyd.domain.merkle import HASH_SIZE
from keyd.errors import InvalidRequest

MAX_NOTE_CHARS = 1 << 20
MAX_SIGNATURES = 100
MAX_SIZE = (1 << 63) - 1
_ED25519 = b"\x01"
_ECDSA = b"\x02"
_DASH = "\u2014 "


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: key name, 4-byte key id, raw signature."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A parsed, unverified note: `text` ends in a newline and is what the signatures cover."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class LogKey:
    """A key that signs checkpoints under a name, which equals the log's origin.

    `public_der` is a SubjectPublicKeyInfo of an Ed25519 or P-256 key.
    Raises: InvalidRequest for other keys and for names with spaces or plus signs.
    """

    name: str
    public_der: bytes

    def __post_init__(self) -> None:
        check_origin(self.name)
        _ = self._public

    @cached_property
    def _public(self) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
        try:
            key = serialization.load_der_public_key(self.public_der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidRequest("LOG_KEY_UNDECODABLE", "the log key is no public key") from error
        if isinstance(key, ed25519.Ed25519PublicKey):
            return key
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        raise InvalidRequest("LOG_KEY_SCHEME", "a log key must be an Ed25519 or P-256 key")

    @cached_property
    def _typed(self) -> bytes:
        """Signature type and public key as a verifier key encodes them."""
        if isinstance(self._public, ed25519.Ed25519PublicKey):
            return _ED25519 + self._public.public_bytes_raw()
        return _ECDSA + self.public_der

    @cached_property
    def key_id(self) -> bytes:
        """The 4 bytes that name this key in signature lines."""
        if self._typed[:1] == _ECDSA:
            return hashlib.sha256(self.public_der).digest()[:4]
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    def verifier(self) -> str:
        """The verifier key that monitors and witnesses are configured with ("vkey")."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._typed).decode()}"

    def verify(self, text: bytes, signature: bytes) -> None:
        """Check a signature over a note's text. Raises: InvalidRequest."""
        try:
            if isinstance(self._public, ed25519.Ed25519PublicKey):
                self._public.verify(signature, text)
            else:
                self._public.verify(signature, text, ec.ECDSA(SHA256()))
        except InvalidSignature as error:
            raise InvalidRequest(
                "CHECKPOINT_SIGNATURE_WRONG", f"the checkpoint's signature by {self.name} is wrong"
            ) from error


def parse_verifier(verifier: str) -> LogKey:
    """Read a verifier key, `<name>+<8 hex digits>+<base64>`. Raises: InvalidRequest."""
    name, _, rest = verifier.partition("+")
    key_id, _, encoded = rest.partition("+")
    typed = _base64(encoded)
    if typed[:1] == _ED25519 and len(typed) == 33:
        key = LogKey(name, _ed25519_der(typed[1:]))
    elif typed[:1] == _ECDSA:
        key = LogKey(name, typed[1:])
    else:
        raise _malformed("the verifier key has an unknown signature type")
    # The written form is the check: it covers the name, the key id and the key's encoding.
    if key.verifier() != verifier:
        raise _malformed(f"the verifier key's id {key_id} does not belong to it")
    return key


def _ed25519_der(raw: bytes) -> bytes:
    return ed25519.Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def check_origin(origin: str) -> None:
    """Refuse origins that cannot also name a key: empty, or with spaces or plus signs.

    Raises: InvalidRequest (LOG_ORIGIN_MALFORMED).
    """
    usable = origin.isprintable() and not any(c.isspace() or c == "+" for c in origin)
    if not origin or not usable:
        raise InvalidRequest(
            "LOG_ORIGIN_MALFORMED",
            "give the log a name like keyd.example.com/log: no spaces, no plus signs",
        )


def text_of(checkpoint: Checkpoint) -> bytes:
    """The bytes to sign: three lines, each with its newline."""
    root = base64.b64encode(checkpoint.root).decode()
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n".encode()


def signed(checkpoint: Checkpoint, key: LogKey, signature: bytes) -> Checkpoint:
    """The checkpoint with its note, after verifying the new signature. Raises: InvalidRequest."""
    text = text_of(checkpoint)
    key.verify(text, signature)
    line = base64.b64encode(key.key_id + signature).decode()
    return replace(checkpoint, note=f"{text.decode()}\n{_DASH}{key.name} {line}\n")


def parse_note(note: str) -> Note:
    """Split a note strictly (c2sp.org/signed-note); signatures are not verified.

    Raises: InvalidRequest (CHECKPOINT_MALFORMED).
    """
    if len(note) > MAX_NOTE_CHARS:
        raise _malformed("it is too long")
    if any((c < " " and c != "\n") or "\ud800" <= c <= "\udfff" for c in note):
        raise _malformed("it has control characters or surrogates")
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not text or not lines.endswith("\n"):
        raise _malformed("it is no text, empty line and signature lines")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise _malformed("it has too many signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in signatures))


def _parse_signature(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not name or "+" in name or any(c.isspace() for c in name):
        raise _malformed("a signature line is malformed")
    raw = _base64(encoded)
    if len(raw) <= 4:
        raise _malformed("a signature is too short")
    return NoteSignature(name, raw[:4], raw[4:])


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a signed note as a checkpoint without extension lines; signatures are not verified.

    Raises: InvalidRequest (CHECKPOINT_MALFORMED).
    """
    return _checkpoint(parse_note(note), note)


def _checkpoint(parsed: Note, note: str) -> Checkpoint:
    lines = parsed.text.split("\n")
    if len(lines) != 4 or not lines[0]:
        raise _malformed("its text is not origin, size and root")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdigit()) or (size[0] == "0" and size != "0"):
        raise _malformed("the size is no plain decimal number")
    if len(size) > len(str(MAX_SIZE)) or int(size) > MAX_SIZE:
        raise _malformed("the size is too large")
    digest = _base64(root)
    if len(digest) != HASH_SIZE:
        raise _malformed("the root is not 32 bytes")
    return Checkpoint(origin=origin, size=int(size), root=digest, note=note)


def verify_checkpoint(note: str, keys: Iterable[LogKey]) -> Checkpoint:
    """Read a checkpoint that at least one of `keys` signed, and none of them wrongly.

    Lines by other keys are ignored, as the specification demands.
    Raises: InvalidRequest (CHECKPOINT_MALFORMED, CHECKPOINT_SIGNATURE_WRONG, CHECKPOINT_UNSIGNED).
    """
    parsed = parse_note(note)
    checkpoint = _checkpoint(parsed, note)
    known = {(key.name, key.key_id): key for key in keys}
    verified = 0
    for line in parsed.signatures:
        key = known.get((line.name, line.key_id))
        if key is not None:
            key.verify(parsed.text.encode(), line.signature)
            verified += 1
    if not verified:
        raise InvalidRequest("CHECKPOINT_UNSIGNED", "no known log key signed the checkpoint")
    return checkpoint


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("it has broken base64") from error
    if base64.b64encode(raw).decode() != text:
        raise _malformed("its base64 is not in canonical form")
    return raw


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest("CHECKPOINT_MALFORMED", f"this is no checkpoint that can be read: {why}")
