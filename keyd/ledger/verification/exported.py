"""Checking an export without the ledger: what an outsider can know, given the log's key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from keyd.domain import merkle, public_keys
from keyd.domain.audit import Event
from keyd.domain.checkpoint import LogKey, verify_checkpoint
from keyd.domain.payload import Payload
from keyd.domain.records import IntentState
from keyd.errors import InvalidRequest, KeydError, NotFound
from keyd.ledger.verification.entries import Fields, differing, lost_versions, parse, place_of
from keyd.ledger.verification.export import CHECKPOINT, ENTRIES, KEYS, PAYLOADS
from keyd.ledger.verification.officer_story import OfficerStory, concerns_officers
from keyd.ledger.verification.report import Report
from keyd.ledger.verification.trust_checks import signed_by

_ABOUT_A_VERSION = (
    Event.SIGNATURE_INTENDED,
    Event.SIGNATURE_COMPLETED,
    Event.METADATA_IMPORTED,
    Event.VERSION_RESERVED,
    Event.SIGNATURE_UPLOADED,
)
_SAME = ("repository", "role", "epoch", "version", "payload_sha256", "key", "key_sha256")


def verify_export(directory: Path, log_key: LogKey, *, payloads: bool = True) -> Report:
    """Check that the entries are those that `log_key` signed, and that they tell one story.

    The tree over the entries is the checkpoint's; no version has two payloads; every signature was
    announced before it was made and verifies under the key that the log registered. Officers'
    approvals verify under their keys, and are enough. Signatures whose key is neither registered
    nor in the root that they sign or the one before it are counted as unverified; without
    `payloads` all are.

    Raises: NotFound (EXPORT_INCOMPLETE). All else is in the report.
    """
    for name in (ENTRIES, CHECKPOINT, KEYS, PAYLOADS):
        if not (directory / name).is_file():
            raise NotFound("EXPORT_INCOMPLETE", f"{directory / name} is missing")
    report = Report(origin=log_key.name)
    bodies = _Payloads(directory, report) if payloads else None
    story = _Story(_read_keys(directory, report), bodies, report)
    frontier = merkle.Frontier()
    for index, line in enumerate(_lines(directory / ENTRIES)):
        frontier.append(merkle.leaf_hash(line))
        story.take(index, parse(line))
    report.log_size, report.root = frontier.size, frontier.root()
    story.finish()
    report.open_intents = story.open_intents
    _check_head(directory, log_key, report)
    return report


def _check_head(directory: Path, log_key: LogKey, report: Report) -> None:
    try:
        note = (directory / CHECKPOINT).read_text("utf-8")
        head = verify_checkpoint(note, [log_key])
    except (InvalidRequest, UnicodeDecodeError) as error:
        report.flaw("checkpoint", str(error))
        return
    report.checkpoints = 1
    if (head.origin, head.size, head.root) != (log_key.name, report.log_size, report.root):
        report.flaw("checkpoint", f"it is not of these {report.log_size} entries")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.removesuffix(b"\n")


def _read_keys(directory: Path, report: Report) -> dict[str, tuple[str, bytes]]:
    """Scheme and public key by fingerprint."""
    found = {}
    for number, line in enumerate(_lines(directory / KEYS)):
        try:
            described = parse(line) or {}
            public = base64.b64decode(described["public"], validate=True)
            found[hashlib.sha256(public).hexdigest()] = (str(described["scheme"]), public)
        except (ValueError, KeyError, TypeError, binascii.Error):
            report.flaw(f"{KEYS} line {number + 1}", "it cannot be read")
    return found


class _Payloads:
    """Where each payload stands in its file; checked against its digest when it is read."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._path = directory / PAYLOADS
        self._places: dict[bytes, int] = {}
        place = 0
        for number, line in enumerate(_lines(self._path)):
            described = parse(line) or {}
            try:
                digest = bytes.fromhex(str(described.get("sha256")))
                sound = hashlib.sha256(self._decode(described)).digest() == digest
            except (ValueError, KeyError, TypeError, binascii.Error):
                sound = False
            if sound:
                self._places[digest] = place
            else:
                report.flaw(f"{PAYLOADS} line {number + 1}", "it is not what its digest says")
            place += len(line) + 1

    @staticmethod
    def _decode(described: Fields) -> bytes:
        return base64.b64decode(described["payload"], validate=True)

    def get(self, digest: str) -> bytes | None:
        place = self._places.get(bytes.fromhex(digest))
        if place is None:
            return None
        with self._path.open("rb") as file:
            file.seek(place)
            return self._decode(json.loads(file.readline()))


def _place_hash(fields: Fields) -> bytes:
    return hashlib.sha256(place_of(fields).encode()).digest()[:16]


class _Story:
    """What the entries tell, one after another."""

    def __init__(
        self, keys: Mapping[str, tuple[str, bytes]], payloads: _Payloads | None, report: Report
    ) -> None:
        self._keys = keys
        self._payloads = payloads
        self._report = report
        self._versions: dict[bytes, bytes] = {}
        self._open: dict[int, Fields] = {}
        self._unknown: dict[int, Fields] = {}
        self._registered: dict[str, object] = {}
        self._officers = OfficerStory("", report)

    @property
    def open_intents(self) -> int:
        return len(self._open)

    def finish(self) -> None:
        """Note what is still owed at the end."""
        self._officers.finish()

    def take(self, index: int, fields: Fields | None) -> None:
        where = f"entry {index}"
        event = fields.get("event") if fields is not None else None
        if fields is None or fields.get("index") != index:
            self._report.flaw(where, "it is not the entry that stood there")
            return
        if (index == 0) != (event == Event.GENESIS):
            self._report.flaw(where, "a log begins with its genesis, once")
        try:
            self._follow(where, index, fields)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, KeydError):
            self._report.flaw(where, "its members are not those that such entries have")

    def _follow(self, where: str, index: int, fields: Fields) -> None:
        event = fields.get("event")
        if event == Event.GENESIS:
            self._officers = OfficerStory(str(fields.get("ledger_id")), self._report)
        if concerns_officers(fields):
            self._officers.follow(index, fields)
        if event in (Event.KEY_CREATED, Event.KEY_ADOPTED):
            self._registered[str(fields.get("key"))] = fields.get("key_sha256")
        self._follow_versions(where, index, fields)
        if event == Event.SIGNATURE_INTENDED:
            self._open[index] = fields
        elif event == Event.SIGNATURE_COMPLETED:
            self._complete(where, fields)
        elif event == Event.SIGNATURE_UPLOADED:
            self._upload(where, fields)
        elif event in (Event.INTENT_CLOSED, Event.SIGNATURE_FAILED):
            intent = int(fields.get("intent", -1))
            ended = self._open.pop(intent, None)
            # A token whose answer did not come in time may still give it.
            if ended is not None and fields.get("outcome") == IntentState.UNKNOWN:
                self._unknown[intent] = ended

    def _follow_versions(self, where: str, index: int, fields: Fields) -> None:
        event = fields.get("event")
        if event in _ABOUT_A_VERSION:
            self._bind(where, fields)
        elif event == Event.RESERVATION_VOIDED:
            self._release(where, fields)
        elif event == Event.LEDGER_REPAIRED:
            self._lose(index, fields)

    def _bind(self, where: str, fields: Fields) -> None:
        place = _place_hash(fields)
        digest = str(fields.get("payload_sha256")).encode()
        if self._versions.setdefault(place, digest) != digest:
            self._report.flaw(where, f"{place_of(fields)} has two payloads")

    def _release(self, where: str, fields: Fields) -> None:
        """Officers have let the version have another payload."""
        place = _place_hash(fields)
        if self._versions.pop(place, None) != str(fields.get("payload_sha256")).encode():
            self._report.flaw(where, f"{place_of(fields)} was not bound to the voided payload")

    def _lose(self, index: int, fields: Fields) -> None:
        """A repair took versions for used: the lowest may have waited here for signatures."""
        for lost in lost_versions(index, fields):
            about = {"repository": lost.repository, "role": lost.role, "epoch": lost.epoch}
            self._versions.pop(_place_hash({**about, "version": lost.first}), None)
            if lost.digest:
                last = _place_hash({**about, "version": lost.last})
                self._versions[last] = lost.digest.encode()

    def _complete(self, where: str, fields: Fields) -> None:
        intent = int(fields.get("intent", -1))
        announced = self._open.pop(intent, None) or self._unknown.pop(intent, None)
        if wrong := differing(announced, {name: fields.get(name) for name in _SAME}):
            self._report.flaw(where, f"its announcement differs in {wrong}")
        self._report.signatures += 1
        fingerprint = str(fields.get("key_sha256"))
        if self._registered.get(str(fields.get("key"))) != fingerprint:
            self._report.flaw(where, f"the log registered no such key as {fields.get('key')!r}")
        if self._payloads is None:
            self._report.unverified += 1
        else:
            self._verify(where, fields, fingerprint, self._payloads)

    def _upload(self, where: str, fields: Fields) -> None:
        """A signature by a key held elsewhere: the metadata that lists the key spells it out."""
        self._report.signatures += 1
        fingerprint = str(fields.get("key_sha256"))
        if self._payloads is None:
            self._report.unverified += 1
        elif fingerprint in self._keys:
            self._verify(where, fields, fingerprint, self._payloads)
        else:
            self._verify_by_metadata(where, fields, fingerprint, self._payloads)

    def _verify_by_metadata(
        self, where: str, fields: Fields, fingerprint: str, payloads: _Payloads
    ) -> None:
        raw = payloads.get(str(fields.get("payload_sha256")))
        if raw is None:
            self._report.flaw(where, "its payload was not exported")
            return
        signature = bytes.fromhex(str(fields.get("signature")))
        # PEM keys hold raw line feeds, which strict JSON refuses.
        sources = (
            Payload(source, json.loads(source, strict=False))
            for source in self._sources(fields, raw, payloads)
        )
        verdicts = (signed_by(source, fingerprint, raw, signature) for source in sources)
        verdict = next((verdict for verdict in verdicts if verdict is not None), None)
        if verdict is None:
            self._report.unverified += 1
        elif not verdict:
            self._report.flaw(where, "the signature does not verify")

    def _sources(self, fields: Fields, raw: bytes, payloads: _Payloads) -> Iterator[bytes]:
        """A root's own bytes and those of the root before it: what they list has a public key."""
        if fields.get("role") != "root":
            return
        yield raw
        before = _place_hash({**fields, "version": int(fields.get("version", 0)) - 1})
        found = payloads.get(self._versions.get(before, b"").decode())
        if found is not None:
            yield found

    def _verify(self, where: str, fields: Fields, fingerprint: str, payloads: _Payloads) -> None:
        scheme, public = self._keys.get(fingerprint, ("", b""))
        try:
            payload = payloads.get(str(fields.get("payload_sha256")))
            signature = bytes.fromhex(str(fields.get("signature")))
            if payload is None:
                self._report.flaw(where, "its payload was not exported")
            else:
                public_keys.verify(public, scheme, payload, signature)
        except (KeydError, ValueError):
            self._report.flaw(where, "the signature does not verify")
