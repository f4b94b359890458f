"""Reading `expires` (TUF 4.2.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from keyd.domain.payload import Payload

_EXACT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@lru_cache(maxsize=1024)
def exact_time(text: str) -> datetime | None:
    """The UTC time of exactly `YYYY-MM-DDTHH:MM:SSZ`; None for any other spelling or date."""
    if not _EXACT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def trusted_expiry(payload: Payload) -> datetime | None:
    """The expiry of metadata that is trusted already, in any ISO 8601 spelling; None if unreadable.

    Published roots of old tools have fractions and offsets. No offset means UTC.
    """
    try:
        time = datetime.fromisoformat(payload.signed["expires"])
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
