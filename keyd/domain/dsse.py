"""DSSE envelopes with one signature (github.com/secure-systems-lab/dsse, protocol 1.0.2)."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from keyd.domain import strict_json
from keyd.errors import InvalidRequest

MAX_BYTES = 16 * 1024


@dataclass(frozen=True)
class Envelope:
    """What is in an envelope; nothing of it is verified. `keyid` is a hint."""

    payload_type: str
    payload: bytes
    keyid: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(envelope: Envelope) -> bytes:
    """The envelope as JSON."""
    document = {
        "payload": _text(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"keyid": envelope.keyid, "sig": _text(envelope.signature)}],
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def decode(content: bytes) -> Envelope:
    """Read an envelope strictly. Raises: InvalidRequest (ENVELOPE_MALFORMED)."""
    if len(content) > MAX_BYTES:
        raise _malformed(f"it has more than {MAX_BYTES} bytes")
    try:
        strict_json.check_depth(content)
        document = strict_json.read_object(strict_json.decode_utf8(content))
        [entry] = document["signatures"]
        if set(document) != {"payload", "payloadType", "signatures"} or set(entry) != {
            "keyid",
            "sig",
        }:
            raise _malformed("it has other members than payload, payloadType and signatures")
        return Envelope(
            payload_type=str(document["payloadType"]),
            payload=_bytes(document["payload"]),
            keyid=str(entry["keyid"]),
            signature=_bytes(entry["sig"]),
        )
    except (InvalidRequest, KeyError, TypeError, ValueError) as error:
        raise _malformed("it is no DSSE envelope with exactly one signature") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest("ENVELOPE_MALFORMED", f"the envelope cannot be read: {why}")
