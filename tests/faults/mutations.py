"""Bent protobuf messages: by bytes, by the wire's own structure, and by the values of fields.

Follows the protobuf encoding specification: a message is a row of records, each a tag (field number
and wire type) and a value.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz import json_mutator

_VARINT, _FIXED64, _LENGTH, _GROUP, _END, _FIXED32 = range(6)
_NUMBERS = (0, 1, 2, 99, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    "", "a", "nobody", "root", "targets", "snapshot", "timestamp", "Team-A", "team-a ", "../x",
    "team-a/*", "*", "%s%n", "é", "e\u0301", "\u202eabc", "\x00", "\n", "\x7f", "\ufeff", "0",
    "x" * 64, "x" * 65, "x" * 255, "x" * 256, "ü" * 128, "x" * 9_000, "{}", '{"keytype":1}',
    "rsassa-pss-sha256", "ed25519", "either", "-1", "99999999999999999999",
)  # fmt: skip
_BYTES = (b"", b"\0", b"x" * 31, b"x" * 32, b"x" * 33, b"\xff" * 64, b"{}", b'{"signed":{}}', b"[")
_FOREIGN_FIELDS = (15, 16, 999, 18_999, 2**29 - 1)


@dataclass(frozen=True)
class Record:
    """One record as it stands on the wire: its tag, and everything after it."""

    number: int
    wire_type: int
    value: bytes

    def encode(self) -> bytes:
        return varint(self.number << 3 | self.wire_type) + self.value


def varint(number: int, padding: int = 0) -> bytes:
    """A number in base 128; `padding` adds bytes that say nothing."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    for _ in range(padding):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def records(data: bytes) -> list[Record]:
    """The top-level records of a message without groups, as protobuf writes it."""
    found, place = [], 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        start, wire_type = place, tag & 7
        if wire_type == _VARINT:
            _, place = _read_varint(data, place)
        elif wire_type == _LENGTH:
            size, place = _read_varint(data, place)
            place += size
        else:
            place += {_FIXED64: 8, _FIXED32: 4}[wire_type]
        found.append(Record(tag >> 3, wire_type, data[start:place]))
    return found


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return number, place


class Bender:
    """Bends requests, the same for the same seed. `others` are requests of any method."""

    def __init__(self, seed: str, others: Sequence[bytes]) -> None:
        self._chance = random.Random(seed)
        self._others = others

    def bend(self, message: Message) -> bytes:
        """One bent request."""
        bend = self._chance.choice((self._values, self._values, self._wire, self._splice))
        return bend(message)

    # --- values ---------------------------------------------------------------------------------

    def _values(self, message: Message) -> bytes:
        """Other values in well-formed fields: what the parser lets through to the services."""
        bent = type(message)()
        bent.CopyFrom(message)
        for _ in range(self._chance.choice((1, 1, 2))):
            self._change_a_field(bent)
        return bent.SerializeToString()

    def _change_a_field(self, message: Message) -> None:
        fields: list[Any] = list(message.DESCRIPTOR.fields)
        if not fields:
            return
        field = self._chance.choice(fields)
        if self._chance.random() < 0.2:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._change_a_list(message, field)
        elif field.message_type is None:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self._change_a_field(inner)

    def _change_a_list(self, message: Message, field: FieldDescriptor) -> None:
        values = getattr(message, field.name)
        many = self._chance.choice((1, 1, 2, 65, 300))
        if field.message_type is not None:
            first = values[0] if values else None
            for _ in range(many):
                added = values.add()
                if first is not None:
                    added.CopyFrom(first)
            self._change_a_field(self._chance.choice(values))
        else:
            old = values[0] if values else None
            values.extend(self._value(field, old) for _ in range(many))

    def _value(self, field: FieldDescriptor, old: Any) -> Any:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._octets(old or b"")
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._chance.choice(_TEXTS)
        signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM)
        number = self._chance.choice(_NUMBERS)
        if kind != FieldDescriptor.CPPTYPE_UINT64:
            number &= 2**32 - 1
        return number - 2**32 if signed and number >= 2**31 else number

    def _octets(self, old: bytes) -> bytes:
        if old.startswith(b"{") and self._chance.random() < 0.8:
            return json_mutator.mutate(old, 100_000, self._chance.randrange(1 << 30))
        return self._chance.choice((*_BYTES, old[:-1], old + b"\0", self._flip(old)))

    # --- the wire -------------------------------------------------------------------------------

    def _wire(self, message: Message) -> bytes:
        """Records that say one thing twice, mean nothing here, or lie about themselves."""
        whole = records(message.SerializeToString()) or [Record(1, _LENGTH, varint(0))]
        return b"".join(self._bent_records(whole, depth=0))

    def _bent_records(self, whole: list[Record], depth: int) -> list[bytes]:
        place = self._chance.randrange(len(whole))
        record = whole[place]
        out = [each.encode() for each in whole]
        inner = self._inner(record)
        if inner and depth < 3 and self._chance.random() < 0.6:
            value = b"".join(self._bent_records(inner, depth + 1))
            out[place] = Record(record.number, _LENGTH, varint(len(value)) + value).encode()
        else:
            self._chance.choice(_WIRE_BENDS)(self._chance, out, place, record)
        return out

    @staticmethod
    def _inner(record: Record) -> list[Record]:
        """The records of a nested message, or of bytes that happen to look like one."""
        if record.wire_type != _LENGTH:
            return []
        _, start = _read_varint(record.value, 0)
        try:
            return records(record.value[start:])
        except (IndexError, KeyError):
            return []

    # --- bytes ----------------------------------------------------------------------------------

    def _splice(self, message: Message) -> bytes:
        """Bytes changed, cut, or taken from another request."""
        data, other = message.SerializeToString(), self._chance.choice(self._others)
        start = self._chance.randrange(len(data) + 1)
        end = min(len(data), start + self._chance.choice((0, 1, 1, 8, 1000)))
        new = self._chance.choice(
            (b"", self._chance.randbytes(1), self._chance.randbytes(8), other, other[start:])
        )
        return self._chance.choice((self._flip(data), data[:start] + new + data[end:]))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return self._chance.randbytes(3)
        place = self._chance.randrange(len(data))
        return (
            data[:place] + bytes([data[place] ^ 1 << self._chance.randrange(8)]) + data[place + 1 :]
        )


WireBend = Callable[[random.Random, list[bytes], int, Record], None]


def _doubled(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    """The last one wins, unnoticed by whoever looked at the first."""
    out.insert(chance.randrange(len(out) + 1), record.encode())


def _other_value(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    values = {_VARINT: varint(chance.choice(_NUMBERS)), _LENGTH: b"\x01x"}
    wire_type = record.wire_type if record.wire_type in values else _VARINT
    out.insert(place + 1, Record(record.number, wire_type, values[wire_type]).encode())


def _foreign(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    number = chance.choice(_FOREIGN_FIELDS)
    value, wire_type = chance.choice(
        ((varint(1), _VARINT), (bytes(8), _FIXED64), (b"\x02ab", _LENGTH), (bytes(4), _FIXED32))
    )
    out.insert(place, Record(number, wire_type, value).encode())


def _wrong_type(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    out[place] = Record(record.number, chance.randrange(8), record.value).encode()


def _huge_length(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    length = chance.choice((2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(record.value) + 9))
    out[place] = varint(record.number << 3 | _LENGTH) + varint(length) + record.value


def _deep(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    depth = chance.choice((20, 99, 101, 150, 2000))
    if chance.random() < 0.5:
        start, end = varint(record.number << 3 | _GROUP), varint(record.number << 3 | _END)
        out[place] = start * depth + end * chance.choice((0, depth))
        return
    nested = b""
    for _ in range(depth):
        nested = varint(record.number << 3 | _LENGTH) + varint(len(nested)) + nested
    out[place] = nested


def _longwinded(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    padded = varint(record.number << 3 | record.wire_type, chance.choice((1, 4, 9, 12)))
    out[place] = padded + record.value


def _bad_number(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    number = chance.choice((0, 19_000, 2**29, 2**32))
    out[place] = varint(number << 3 | record.wire_type) + record.value


def _left_out(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    del out[place]


def _moved(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    chance.shuffle(out)


def _not_text(chance: random.Random, out: list[bytes], place: int, record: Record) -> None:
    text = chance.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\0b"))
    out[place] = Record(record.number, _LENGTH, varint(len(text)) + text).encode()


_WIRE_BENDS: tuple[WireBend, ...] = (
    _doubled,
    _other_value,
    _foreign,
    _wrong_type,
    _huge_length,
    _deep,
    _longwinded,
    _bad_number,
    _left_out,
    _moved,
    _not_text,
)
