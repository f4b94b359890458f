"""Key objects on a token, read so that one broken object does not hide its neighbours."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pkcs11.exceptions as ck
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Object, Session

from keyd.wire.worker_pb2 import KeyPair
from keyd.worker import public_keys

_PUBLIC = [
    Attribute.KEY_TYPE,
    Attribute.EC_PARAMS,
    Attribute.EC_POINT,
    Attribute.MODULUS,
    Attribute.PUBLIC_EXPONENT,
]
_PRIVATE = [
    *_PUBLIC,
    Attribute.SENSITIVE,
    Attribute.EXTRACTABLE,
    Attribute.LOCAL,
    Attribute.NEVER_EXTRACTABLE,
    Attribute.ALWAYS_SENSITIVE,
    Attribute.SIGN,
]
# What unpacking odd bytes raises: an enumeration's unknown value, a wrong length, no UTF-8.
_UNREADABLE = (PKCS11Error, ValueError, IndexError, KeyError, struct.error)


Search = Callable[[Session, ObjectClass, bytes], "list[Object]"]


class Seat(Protocol):
    """One thread's place at the token: its session, replaced after any error."""

    def session(self) -> Session:
        """The session, opened if need be. Raises: PKCS11Error."""

    def drop(self) -> None:
        """Close the session and forget everything found through it."""


@dataclass
class Group:
    """Objects that share one CKA_ID."""

    cka_id: bytes
    private: list[Object] = field(default_factory=list)
    public: list[Object] = field(default_factory=list)
    certificates: list[Object] = field(default_factory=list)


def group(seat: Seat, cka_id: bytes) -> Group:
    """The key objects with this CKA_ID. Raises: PKCS11Error."""
    try:
        return _group(cka_id, seat.session(), _filtered)
    except ck.GeneralError:
        # One undecryptable object spoils every search by bytes in SoftHSM, and the session with it.
        seat.drop()
        return _group(cka_id, seat.session(), _compared)


def group_in(session: Session, cka_id: bytes) -> Group:
    """As `group`, for changes: the objects belong to this session. Raises: PKCS11Error."""
    return _group(cka_id, session, _compared)


def groups(session: Session) -> Iterable[Group]:
    """Every key object of the token, grouped; certificates alone make no group."""
    found: defaultdict[bytes, Group] = defaultdict(lambda: Group(b""))
    for private in _all(session, ObjectClass.PRIVATE_KEY):
        found[_id(private)].private.append(private)
    for public in _all(session, ObjectClass.PUBLIC_KEY):
        found[_id(public)].public.append(public)
    for certificate in _all(session, ObjectClass.CERTIFICATE):
        if (cka_id := _id(certificate)) in found:
            found[cka_id].certificates.append(certificate)
    for cka_id, members in found.items():
        members.cka_id = cka_id
    return found.values()


def public_ders(members: Group) -> set[bytes]:
    """Every public key that the objects name; without public objects, what the others tell."""
    keys: Iterator[public_keys.PublicKey | None] = (
        public_keys.public_key(read(each, _PUBLIC)) for each in members.public
    )
    ders = {public_keys.to_der(key) for key in keys if key}
    if members.public or ders:
        return ders
    values = (read(each, [Attribute.VALUE]) for each in members.certificates)
    certified = (public_keys.certified_key(value.get(Attribute.VALUE, b"")) for value in values)
    told = (public_keys.public_key(read(each, _PUBLIC)) for each in members.private)
    return {public_keys.to_der(key) for key in (*certified, *told) if key}


def describe(members: Group) -> KeyPair:
    """What the daemon is told about these objects."""
    ders = public_ders(members)
    pair = KeyPair(
        cka_id=members.cka_id,
        label=_label(members),
        private_found=bool(members.private),
        public_found=bool(members.public),
        duplicates=max(len(members.private) - 1, len(members.public) - 1, len(ders) - 1, 0),
        extractable=True,
    )
    if len(ders) == 1:
        pair.public_der = next(iter(ders))
        if key := public_keys.from_der(pair.public_der):
            pair.scheme = public_keys.default_scheme(key)
            pair.rsa_bits = public_keys.rsa_bits(key)
    if members.private:
        _describe_private(pair, read(members.private[0], _PRIVATE))
    return pair


def _describe_private(pair: KeyPair, attributes: Mapping[Attribute, Any]) -> None:
    pair.sensitive = attributes.get(Attribute.SENSITIVE, False)
    pair.extractable = attributes.get(Attribute.EXTRACTABLE, True)
    pair.local = attributes.get(Attribute.LOCAL, False)
    pair.never_extractable = attributes.get(Attribute.NEVER_EXTRACTABLE, False)
    pair.always_sensitive = attributes.get(Attribute.ALWAYS_SENSITIVE, False)
    pair.may_sign = attributes.get(Attribute.SIGN, False)


def read(item: Object, wanted: list[Attribute]) -> dict[Attribute, Any]:
    """The attributes that the token is willing and able to tell."""
    try:
        return item.get_attributes(wanted)
    except _UNREADABLE:
        pass
    told = {}
    for attribute in wanted:
        try:
            told[attribute] = item[attribute]
        except _UNREADABLE:
            continue
    return told


def _group(cka_id: bytes, session: Session, search: Search) -> Group:
    found = Group(cka_id)
    found.private = search(session, ObjectClass.PRIVATE_KEY, cka_id)
    found.public = search(session, ObjectClass.PUBLIC_KEY, cka_id)
    if not found.public:
        found.certificates = search(session, ObjectClass.CERTIFICATE, cka_id)
    return found


def _filtered(session: Session, kind: ObjectClass, cka_id: bytes) -> list[Object]:
    wanted = {Attribute.CLASS: kind, Attribute.TOKEN: True, Attribute.ID: cka_id}
    # Exhausted on purpose: an unfinished search poisons its session.
    return list(session.get_objects(wanted))


def _compared(session: Session, kind: ObjectClass, cka_id: bytes) -> list[Object]:
    return [each for each in _all(session, kind) if _id(each) == cka_id]


def _all(session: Session, kind: ObjectClass) -> list[Object]:
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.TOKEN: True}))


def _id(item: Object) -> bytes:
    return bytes(read(item, [Attribute.ID]).get(Attribute.ID, b""))


def _label(members: Group) -> str:
    for item in (*members.private, *members.public):
        if label := read(item, [Attribute.LABEL]).get(Attribute.LABEL):
            return str(label)[:64]
    return ""
