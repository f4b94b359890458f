"""Characters that have no place in a payload's strings: controls, lone surrogates, text beyond NFC.

Names that look alike must be alike, and what an officer reads on a terminal must not steer it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from keyd.domain.pointer import MAX_FINDINGS, TOP, Path, malformed
from keyd.errors import Finding

_ASCII_CONTROLS_BUT_LINE_FEED = bytes([*range(0x0A), *range(0x0B, 0x20), 0x7F])
_HIGH_CONTROL = re.compile("[\x80-\x9f]")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def are_surely_plain(raw: bytes, text: str, line_feeds: int) -> bool:
    """Whether one quick look at a canonical payload proves that `character_findings` is empty.

    `text` is `raw` decoded; `line_feeds` counts those in its `keyval.public` members. A part of a
    text in NFC is in NFC as well (Unicode annex 15), so the whole can answer for its strings.
    """
    return (
        len(raw.translate(None, _ASCII_CONTROLS_BUT_LINE_FEED)) == len(raw)
        and raw.count(b"\n") == line_feeds
        and (
            raw.isascii()
            or (not _HIGH_CONTROL.search(text) and unicodedata.is_normalized("NFC", text))
        )
    )


def character_findings(signed: dict[str, Any], *, raw_line_feeds: bool) -> list[Finding]:
    """Return the first objections to names and strings anywhere in `signed`.

    Line feeds may stand in `keyval.public` of the two places that hold keys. Where the payload
    has no raw line feed (`raw_line_feeds` false) they came as escapes: those are not canonical,
    which is for others to say.
    """
    search = _Search(raw_line_feeds)
    search.visit(signed, TOP)
    return search.findings


@dataclass
class _Search:
    raw_line_feeds: bool
    findings: list[Finding] = field(default_factory=list)

    def visit(self, value: Any, path: Path) -> None:
        if isinstance(value, str):
            self._judge(value, path, refuse_line_feed=not _is_public_key(path))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.visit(item, (path, index))
        elif isinstance(value, dict):
            for name, item in value.items():
                self._judge(name, (path, name), refuse_line_feed=True)
                self.visit(item, (path, name))

    def _judge(self, text: str, path: Path, *, refuse_line_feed: bool) -> None:
        if _SURROGATE.search(text):
            self._add("LONE_SURROGATE", path, "write whole Unicode characters")
        elif not unicodedata.is_normalized("NFC", text):
            self._add("STRING_NOT_NFC", path, "write text in Unicode normal form NFC")
        if _CONTROL.search(text) or (self.raw_line_feeds and refuse_line_feed and "\n" in text):
            message = "write no control characters; line feeds belong in `keyval.public` only"
            self._add("CONTROL_CHARACTER", path, message)

    def _add(self, reason: str, path: Path, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(malformed(reason, path, message))


def _is_public_key(path: Path) -> bool:
    """Whether `path` ends in keys/KEYID/keyval/public, at the top or in `delegations`."""
    match path:
        case (((((), "keys"), _), "keyval"), "public"):
            return True
        case ((((((), "delegations"), "keys"), _), "keyval"), "public"):
            return True
    return False
