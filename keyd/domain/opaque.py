"""Telling TUF metadata from bytes of other formats, for keys that sign the latter only."""

from __future__ import annotations

import json
import re
from typing import Any

TUF_TYPES = frozenset({"root", "targets", "snapshot", "timestamp", "mirrors"})
MAX_BYTES = 1 << 20

# JSON, its UTF-16 and UTF-32 forms and DSSE's pre-authentication encoding carry the words like so.
_TYPED = re.compile(r'"_type"\s*:\s*"(?:root|targets|snapshot|timestamp|mirrors)"', re.I)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_MEDIA_TYPE = "application/vnd.tuf"


def looks_like_tuf(data: bytes) -> bool:
    """Whether any common reader could take these bytes for TUF metadata.

    Errs on the side of yes: whole documents, envelopes, DSSE encodings, other Unicode forms,
    escaped letters and text around the metadata all count.
    """
    return any(_text_looks_like_tuf(text) for text in _readings(data))


def _readings(data: bytes) -> set[str]:
    encodings = ["utf-8-sig", "latin-1"]
    if b"\0" in data:
        encodings += ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
    return {data.decode(encoding, errors="replace") for encoding in encodings}


def _text_looks_like_tuf(text: str) -> bool:
    unescaped = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    if _MEDIA_TYPE in unescaped or _TYPED.search(unescaped):
        return True
    try:
        document = json.loads(text, strict=False, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return False
    return _is_typed(document)


def _is_typed(document: Any) -> bool:
    """Whether the document, or the `signed` in it, states a TUF type, repeated members included."""
    if not isinstance(document, list):
        return False
    for member in document:
        if not isinstance(member, tuple):
            continue
        name, value = member
        if name == "_type" and isinstance(value, str) and value.lower() in TUF_TYPES:
            return True
        if name == "signed" and _is_typed(value):
            return True
    return False
