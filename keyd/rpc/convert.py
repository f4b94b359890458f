"""Domain values of keys, tokens, findings and times as messages of keyd.v1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.domain import canonical, public_keys
from keyd.domain.keys import Content, Key, KeyState, Origin, Scheme
from keyd.domain.tokens import FoundKey, TokenEvent, TokenEventKind, TokenState, TokenStatus
from keyd.errors import Finding, Severity
from keyd.rpc.fields import Fields
from keyd_protos.v1 import keys_pb2, signing_pb2, tokens_pb2

_CONTENT_OUT = {
    Content.TUF: keys_pb2.KEY_CONTENT_TUF,
    Content.OPAQUE: keys_pb2.KEY_CONTENT_OPAQUE,
    Content.LOG: keys_pb2.KEY_CONTENT_LOG,
}
_CONTENT_IN: Mapping[int, Content] = {
    keys_pb2.KEY_CONTENT_UNSPECIFIED: Content.TUF,
    keys_pb2.KEY_CONTENT_TUF: Content.TUF,
    keys_pb2.KEY_CONTENT_OPAQUE: Content.OPAQUE,
    keys_pb2.KEY_CONTENT_LOG: Content.LOG,
}
_KEY_STATES = {state: keys_pb2.KeyState.Value(f"KEY_STATE_{state.value}") for state in KeyState}
_TOKEN_STATES = {
    state: tokens_pb2.TokenState.Value(f"TOKEN_STATE_{state.value}") for state in TokenState
}
_EVENT_KINDS = {
    kind: tokens_pb2.WatchTokensResponse.Kind.Value(f"KIND_{kind.value}") for kind in TokenEventKind
}
_SCHEMES = {scheme.value: scheme for scheme in Scheme}


def timestamp(moment: datetime) -> Timestamp:
    """An aware time as Timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def content_in(fields: Fields, pointer: str, value: int) -> Content:
    """What a new key may sign; left out: TUF metadata."""
    return fields.choice(pointer, value, _CONTENT_IN, Content.TUF)


def scheme_in(fields: Fields, pointer: str, value: str) -> Scheme | None:
    """A scheme that tokens sign with, or None if it was left out."""
    if value and value not in _SCHEMES:
        fields.object_to(pointer, "FIELD_INVALID", f"must be one of {', '.join(_SCHEMES)}")
    return _SCHEMES.get(value)


def key_out(key: Key, repository: str) -> keys_pb2.Key:
    """A registered key and the repository that its material belongs to, or ""."""
    pem, keyid, json = _public_forms(key.public_der, key.scheme)
    return keys_pb2.Key(
        name=key.name,
        token=key.token,
        cka_id=key.cka_id,
        scheme=key.scheme.value,
        rsa_bits=key.rsa_bits,
        content=_CONTENT_OUT[key.content],
        state=_KEY_STATES[key.state],
        adopted=key.origin is Origin.ADOPTED,
        key_sha256=bytes.fromhex(key.fingerprint),
        public_key_pem=pem,
        tuf_keyid=keyid,
        tuf_key_json=json,
        create_time=timestamp(key.created_at),
        repository=repository,
    )


@lru_cache(maxsize=1024)
def _public_forms(public_der: bytes, scheme: Scheme) -> tuple[str, str, str]:
    """PEM, TUF key id and canonical TUF key object; a page of keys would compute each anew."""
    key = load_der_public_key(public_der)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    keyid, key_object = public_keys.tuf_key(public_der, scheme)
    return pem, keyid, canonical.encode(key_object).decode()


def token_out(status: TokenStatus) -> tokens_pb2.Token:
    """A token's last known status."""
    return tokens_pb2.Token(
        name=status.name,
        state=_TOKEN_STATES[status.state],
        detail=status.detail,
        since=timestamp(status.since),
        serial=status.serial,
        label=status.label,
        manufacturer=status.manufacturer,
        model=status.model,
        firmware=status.firmware,
        schemes=[scheme.value for scheme in status.schemes],
        stray_objects=status.strays,
        missing_keys=status.missing_keys,
    )


def event_out(event: TokenEvent) -> tokens_pb2.WatchTokensResponse:
    """One thing that happened to a token."""
    return tokens_pb2.WatchTokensResponse(
        kind=_EVENT_KINDS[event.kind],
        token=token_out(event.status),
        event_time=timestamp(event.at),
    )


def token_key_out(found: FoundKey, registered_as: str) -> tokens_pb2.TokenKey:
    """Key objects found on a token."""
    fingerprint = hashlib.sha256(found.public_der).digest() if found.public_der else b""
    return tokens_pb2.TokenKey(
        cka_id=found.cka_id,
        label=found.label,
        scheme=found.scheme.value if found.scheme else "",
        key_sha256=fingerprint,
        registered_as=registered_as,
        problem=found.problem,
    )


def findings_out(findings: Iterable[Finding]) -> list[signing_pb2.Finding]:
    """Findings in their order, warnings included."""
    return [
        signing_pb2.Finding(
            rule=finding.rule,
            reason=finding.reason,
            pointer=finding.pointer,
            message=finding.message,
            refuses=finding.severity is Severity.REFUSE,
            details=dict(finding.details),
        )
        for finding in findings
    ]
